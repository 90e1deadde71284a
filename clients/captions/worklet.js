/**
 * In the audio thread: whatever channels come in become one, 16 bit, in pieces of equal length. Knows nothing of where
 * they go.
 */
class Pieces extends AudioWorkletProcessor {
  /** @param {{processorOptions: {samples: number}}} options */
  constructor({ processorOptions: { samples } }) {
    super();
    this.samples = samples;
    this.piece = new Int16Array(samples);
    this.filled = 0;
    this.peak = 0;
    this.done = false;
    this.port.onmessage = () => {
      this.post(true);
      this.done = true;
    };
  }

  /** @param {Float32Array[][]} inputs one input, its channels */
  process([channels]) {
    if (this.done) return false;
    if (channels.length === 0) return true;
    for (let i = 0; i < channels[0].length; i++) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      const value = Math.max(-1, Math.min(1, sum / channels.length));
      this.peak = Math.max(this.peak, Math.abs(value));
      this.piece[this.filled++] = Math.round(value * 32767);
      if (this.filled === this.samples) this.post(false);
    }
    return true;
  }

  /** @param {boolean} last */
  post(last) {
    const pcm = this.piece.slice(0, this.filled).buffer;
    this.port.postMessage({ pcm, peak: this.peak, last }, [pcm]);
    this.filled = 0;
    this.peak = 0;
  }
}

registerProcessor("pieces", Pieces);
