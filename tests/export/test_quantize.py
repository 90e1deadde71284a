"""int8 weights and activations: what is quantised, how finely, and that rows do not meet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.fuse import fuse
from export.quantize import columns_to_int8, products, quantize_int8, quantize_large_int8, quantized_products
from export.to_onnx import IR_VERSION, joint_graph, predictor_graph, step_graph, uncollected
from models.config import ModelConfig
from models.transducer import Model
from tests.artefacts import exported


def test_columns_have_their_own_scale_and_half_a_step_of_error() -> None:
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(64, 5)) * [1e-3, 1, 30, 0, 7]).astype(np.float32)
    values, scale = columns_to_int8(weight)
    assert values.dtype == np.int8
    assert (np.abs(values).max(0) == [127, 127, 127, 0, 127]).all()
    assert (np.abs(values * scale - weight) <= scale / 2 * 1.001).all()


def test_every_product_of_the_encoder_is_int8_and_nothing_else() -> None:
    model = onnx.load(exported("hybrid_bpe", "int8") / "step.onnx")
    layers = 3
    assert quantized_products(model) == products(layers)
    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    kept = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    assert [list(weights[node.input[1]].dims) for node in kept] == [[32, 32]], "joint.enc alone stays float32"
    for name in ("predictor", "joint"):
        assert not quantized_products(onnx.load(exported("hybrid_bpe", "int8") / f"{name}.onnx"))


def test_quantised_products_are_the_same_alone_and_in_company_to_the_bit() -> None:
    """Rows of very different size, one of zeros; a scale for the whole tensor would drown the small ones."""
    session = onnxruntime.InferenceSession(_one_product(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(9, 4, 48)) * 10.0 ** rng.integers(-6, 6, (9, 4, 1))).astype(np.float32)
    x[3, 1] = 0
    together = session.run(None, {"x": x})[0]
    assert np.isfinite(together).all()
    assert (together[3, 1] == 0).all()
    for row in range(9):
        np.testing.assert_array_equal(session.run(None, {"x": x[row : row + 1]})[0][0], together[row])
        np.testing.assert_array_equal(session.run(None, {"x": x[row : row + 1, 2:3]})[0][0, 0], together[row, 2])


def _one_product() -> bytes:
    weight = np.random.default_rng(2).normal(size=(48, 33)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    scope = node.metadata_props.add()
    scope.key, scope.value = "pkg.torch.onnx.name_scopes", "['', 'model.encoder.layers.0', 'linear']"
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "t", 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "t", 33])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
    model.ir_version = 11
    quantized: bytes = quantize_int8(model).SerializeToString()
    return quantized


def test_weights_too_large_for_the_exporter_to_fold_are_quantised_too() -> None:
    config = ModelConfig(
        name="wide", kind="ctc", mels=80, d_model=160, layers=1, heads=4, d_ff=640, contexts=((4, 1), (4, 0)),
        vocab_size=2, labels=("a", " "), tokenizer="labels", sub_channels=32,
    )  # fmt: skip
    with uncollected():
        step = fuse(step_graph(Model(config).eval().requires_grad_(False)))
    assert quantized_products(quantize_int8(step)) == products(1)


@pytest.mark.parametrize(("graph", "matrices"), [(predictor_graph, 4), (joint_graph, 1)])
def test_large_matrices_of_predictor_and_joint_are_int8_and_rows_do_not_meet(
    graph: Callable[[Model], onnx.ModelProto], matrices: int
) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        name="wide", kind="rnnt", mels=80, d_model=32, layers=1, heads=4, d_ff=32, contexts=((4, 0),),
        vocab_size=1024, labels=tuple(map(str, range(1024))), tokenizer="labels", sub_channels=32,
        predictor_hidden=640, predictor_layers=2, joint_hidden=640,
    )  # fmt: skip
    with uncollected():
        floats = graph(Model(config).eval().requires_grad_(False))
    floats.ir_version = IR_VERSION
    quantized = quantize_large_int8(floats)
    assert (quantized_products(floats), quantized_products(quantized)) == (0, matrices)
    before, after = (
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for model in (floats, quantized)
    )
    rng = np.random.default_rng(3)
    told = {value.name: value.shape[1:] for value in before.get_inputs()}
    fed = {
        name: rng.integers(0, 1024, 7) if name == "label" else np.tanh(rng.normal(size=(7, *sizes))).astype(np.float32)
        for name, sizes in told.items()
    }
    together = after.run(None, fed)
    for own, expected in zip(together, before.run(None, fed), strict=True):
        assert 0 < np.abs(own - expected).max() < 0.01 * np.abs(expected).max()
    for row in range(7):
        alone = after.run(None, {name: values[row : row + 1] for name, values in fed.items()})
        for own, all_rows in zip(alone, together, strict=True):
            np.testing.assert_array_equal(own[0], all_rows[row])
