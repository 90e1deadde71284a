"""Claims about `streamer bench floor`: its products are those of the encoder, and it computes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from streamer.bench import floor, peer_report
from streamer.bench.floor import SIZES, Product, Products, Size, graph, products
from streamer.bench.peers import Book

TINY = Size(layers=2, width=8, joint=4)


def test_the_products_hold_the_weights_of_the_published_encoders() -> None:
    """Attention's positions, convolutions, norms and biases are what is missing to 114 M and 14 M."""
    weights = {name: sum(one.inner * one.columns for one in products(size)) for name, size in SIZES.items()}
    per_layer = 8 + 3 + 1 + 2 + 1 + 8
    assert weights["large"] == pytest.approx(17 * per_layer * 512**2, rel=0.02)
    assert 100e6 < weights["large"] < 114e6
    assert 11e6 < weights["small"] < 14e6


def test_every_layer_has_weights_of_its_own_and_queries_keys_and_values_are_one_product() -> None:
    layers = [one for one in products(TINY) if one.rows == 1][1:-1]
    assert len(layers) == 2 * 8
    assert [one.columns for one in layers[:8]] == [32, 8, 24, 8, 16, 8, 32, 8]
    assert len(graph(products(TINY), "fp32")) > 4 * sum(one.inner * one.columns for one in products(TINY))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graph_multiplies_with_the_kernel_it_names(precision: str) -> None:
    kinds = [Product(1, 8, 6), Product(2, 4, 3)]
    session = onnxruntime.InferenceSession(graph(kinds, precision), providers=["CPUExecutionProvider"])
    luck = np.random.default_rng(0)  # the weights come from the same numbers
    values = [np.full((one.rows, one.inner), 129, np.float32) for one in kinds]
    if precision == "int8":
        weights = [luck.integers(-127, 128, (one.inner, one.columns)) for one in kinds]
        given, expected = [x.astype(np.uint8) for x in values], [0.0001 * w.sum(0) for w in weights]
    else:
        weights = [luck.standard_normal((one.inner, one.columns)) for one in kinds]
        given, expected = values, [129 * w.sum(0) for w in weights]
    for got, want in zip(session.run(None, {f"a{i}": x for i, x in enumerate(given)}), expected, strict=True):
        np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-3)


def test_floors_are_kept_and_the_lower_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "SIZES", {"small": TINY})
    monkeypatch.setattr(floor, "LEAST_S", 0.0)
    assert Products(TINY, "int8").seconds(3) > 0
    book = Book(tmp_path)
    floor.run(book, floor.floors(["small"], ["fp32"], [80, 560], [1, 8]), "this", lambda _: None)
    kept = Book(tmp_path).section("floor")
    assert sorted(kept) == [f"small/fp32/{latency}ms/{streams}" for latency in (560, 80) for streams in (1, 8)]
    for seconds, machine, expected in ((0.5, "this", 0.25), (0.125, "this", 0.125), (0.5, "that", 0.5)):
        book.section("floor")["small/fp32/80ms/1"] = {"seconds": 0.25, "machine": "this"}
        floor.run(book, iter([("small/fp32/80ms/1", seconds)]), machine, lambda _: None)
        assert book.section("floor")["small/fp32/80ms/1"]["seconds"] == expected
    assert "| 14 M, 16x176, fp32 | 500.00 | " in peer_report.render(book.kept)
