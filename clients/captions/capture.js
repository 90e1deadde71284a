/**
 * Live sound of this machine: a microphone or a shared tab, as 16 bit mono pieces at the rate of the sound card. Knows
 * nothing of where the pieces go.
 *
 * @typedef {{pcm: ArrayBuffer, seconds: number, peak: number}} Piece  peak: 0 to 1
 * @typedef {{rate: number, label: string, held: () => boolean, stop: () => Promise<void>}} Source  rate: hertz; held:
 *   whether the browser waits for a click or a key before it lets sound through
 * @typedef {{piece: (piece: Piece) => void, ended: () => void}} Told
 */
import { AwayError, NoSoundError } from "./messages.js";

const PIECE_S = 0.04;
const BYTES = 2; // a sample
/** Sound cards go higher; nothing that is heard lies there. */
const HIGHEST_RATE = 48000;

/** @param {{mic: string, clean: boolean}} settings @returns {Promise<MediaStream>} */
export async function openMicrophone({ mic, clean }) {
  if (!navigator.mediaDevices) throw new Error("no media devices");
  const audio = { echoCancellation: clean, noiseSuppression: clean, autoGainControl: clean };
  const stream = await navigator.mediaDevices.getUserMedia({ audio });
  if (!mic || stream.getAudioTracks()[0].label === mic) return stream;
  // Names of devices are told only after one was allowed.
  const device = (await microphones()).find(({ label }) => label.includes(mic));
  if (device === undefined) return stream;
  stop(stream);
  return navigator.mediaDevices.getUserMedia({ audio: { ...audio, deviceId: { exact: device.deviceId } } });
}

/** @returns {Promise<MediaStream>} the sound of a tab, window or screen that the person picks */
export async function openTab() {
  const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: 1 }, audio });
  if (stream.getAudioTracks().length > 0) return stream;
  stop(stream);
  throw new NoSoundError();
}

/** @returns {Promise<MediaDeviceInfo[]>} with empty labels until a microphone was allowed once */
export async function microphones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return devices.filter(({ kind, deviceId }) => kind === "audioinput" && deviceId !== "communications");
}

/**
 * Listen to a stream. `told.ended` is called when the device is unplugged or the sharing is ended.
 *
 * @param {MediaStream} stream
 * @param {Told} told
 * @returns {Promise<Source>}
 */
export async function listenTo(stream, told) {
  const [track] = stream.getAudioTracks();
  let context = new AudioContext();
  if (context.sampleRate > HIGHEST_RATE) {
    void context.close();
    context = new AudioContext({ sampleRate: HIGHEST_RATE });
  }
  try {
    await context.audioWorklet.addModule("/captions/worklet.js");
  } catch {
    stop(stream);
    void context.close();
    throw new AwayError();
  }
  const pieces = new AudioWorkletNode(context, "pieces", {
    processorOptions: { samples: Math.round(context.sampleRate * PIECE_S) },
  });
  /** @type {() => void} */
  let flushed = () => {};
  pieces.port.onmessage = ({ data }) => {
    const seconds = data.pcm.byteLength / BYTES / context.sampleRate;
    if (seconds > 0) told.piece({ pcm: data.pcm, peak: data.peak, seconds });
    if (data.last) flushed();
  };
  track.onended = () => told.ended();
  context.createMediaStreamSource(new MediaStream([track])).connect(pieces);
  pieces.connect(context.destination); // silent; a node that leads nowhere is not run everywhere
  void awake(context);
  return {
    rate: context.sampleRate,
    label: track.label,
    held: () => context.state === "suspended",
    async stop() {
      track.onended = null;
      if (context.state === "running") {
        await new Promise((resolve) => {
          flushed = () => resolve(undefined);
          setTimeout(flushed, 500);
          pieces.port.postMessage("flush");
        });
      }
      stop(stream);
      await context.close();
    },
  };
}

/** @param {AudioContext} context some browsers start it only after a click or a key */
async function awake(context) {
  if (context.state === "running") return;
  const resume = () => void context.resume();
  for (const event of ["pointerdown", "keydown"]) addEventListener(event, resume, { once: true });
  await context.resume();
}

/** @param {MediaStream} stream */
function stop(stream) {
  for (const track of stream.getTracks()) track.stop();
}
