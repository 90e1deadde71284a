/**
 * The daemon that served this page, over HTTP: what it offers, whether it is there, why it let nobody in; and the key,
 * which lives in this tab only. Knows nothing of streams.
 *
 * @typedef {{model: string, latencies_ms: number[], latency_ms: number, languages: string[], language: string|null,
 *   key_required: boolean, rooms: {watch_needs_key: boolean}, version: string}} Info
 * @typedef {"unreachable"|"key"|"origin"|"refused"} Why
 */

const KEPT = "streamer.key";
const PROBE_MS = 5000;
/** The longest wait before the daemon is asked again what it offers. */
const ASK_MS = 30000;

/** @returns {string} the API key, or "" */
export function key() {
  return sessionStorage.getItem(KEPT) ?? "";
}

/** @param {string} value kept until the tab is closed; "" forgets it */
export function keepKey(value) {
  if (value) sessionStorage.setItem(KEPT, value);
  else sessionStorage.removeItem(KEPT);
}

/** Take `#key=...` out of the address, where it could be seen or copied. */
export function takeKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given === null) return;
  keepKey(given);
  history.replaceState(null, "", location.pathname + location.search);
}

/** @param {string} path @param {Record<string, string>} [query] @returns {string} ws or wss, as the page came */
export function address(path, query = {}) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.search = new URLSearchParams(query).toString();
  url.hash = "";
  return url.href;
}

/** @returns {Promise<Info>} throws where the daemon cannot be reached or says no */
export async function info() {
  const answer = await asked("/v1/info");
  if (!answer.ok) throw new Error(`/v1/info: got ${answer.status}, expected 200`);
  return answer.json();
}

/**
 * Ask until there is an answer, at longer and longer intervals; the first answer or failure ends the wait.
 *
 * @param {() => Promise<void>} ask
 */
export async function patiently(ask, delayMs = 1000) {
  try {
    await ask();
  } catch {
    setTimeout(() => void patiently(ask, Math.min(2 * delayMs, ASK_MS)), delayMs);
  }
}

/** @param {number} withinMs @returns {Promise<boolean>} whether the daemon answers at all */
export async function answers(withinMs) {
  try {
    return (await asked("/healthz", {}, withinMs)).ok;
  } catch {
    return false;
  }
}

/**
 * Why a WebSocket did not open. A browser is told nothing but 1006, so the same door is asked again by plain HTTP.
 *
 * @param {string} path of the WebSocket
 * @returns {Promise<Why>}
 */
export async function diagnose(path) {
  try {
    const { status } = await asked(path, key() ? { Authorization: `Bearer ${key()}` } : {});
    if (status === 401) return "key";
    return status === 403 ? "origin" : "refused";
  } catch (error) {
    // A header can carry bytes only: a key that does not fit was refused by the browser itself.
    return error instanceof TypeError && /[^\x20-\x7e]/.test(key()) ? "key" : "unreachable";
  }
}

/**
 * @param {string} path
 * @param {Record<string, string>} [headers]
 * @param {number} [withinMs]
 * @returns {Promise<Response>}
 */
function asked(path, headers = {}, withinMs = PROBE_MS) {
  return fetch(path, { cache: "no-store", headers, signal: AbortSignal.timeout(withinMs) });
}
