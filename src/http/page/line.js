// One WebSocket, and whether what comes back is what was sent.

// A path prefix may come without its slash: /ws has to lead to /ws/socket.
const base = location.origin + location.pathname.replace(/\/?$/, '/');

// The address of a path of the service, below the page's own.
const address = (path, query) => base + path.slice(1) + (query ? `?${query}` : '');

class Line {
  #waiting = [];

  // Opens a WebSocket; throws what the browser throws if it does not even try.
  constructor(endpoint, options = '', protocols = []) {
    this.endpoint = endpoint;
    // The server remembers the outcome under this name, because browsers hide it.
    this.trace = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, '0')).join('');
    this.url = address(endpoint.path, options).replace(/^http/, 'ws');
    this.begun = performance.now();
    const socket = new WebSocket(`${this.url}${options ? '&' : '?'}trace=${this.trace}`, protocols);
    socket.binaryType = 'arraybuffer';
    // How long the handshake took, or null if the line ended before.
    this.opened = new Promise((resolve) => {
      socket.addEventListener('open', () => {
        this.since = performance.now();
        resolve(this.since - this.begun);
      });
      socket.addEventListener('close', () => resolve(null));
    });
    // Code, reason, whether Close frames were exchanged, and how long it was open.
    this.ended = new Promise((resolve) => {
      socket.addEventListener('close', ({ code, reason, wasClean }) => {
        this.#waiting.forEach(({ resolve }) => resolve(null));
        resolve({ code, reason, wasClean, lived: performance.now() - this.since });
      });
    });
    socket.addEventListener('message', ({ data }) => this.#take(data));
    this.socket = socket;
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  // Sends a message; resolves to the answer, or to null if the line ends before. An echo answers in
  // order, so what comes belongs to the oldest message without an answer.
  ask(message) {
    return new Promise((resolve) => {
      this.#waiting.push({ message, resolve, sent: performance.now() });
      this.socket.send(message);
    });
  }

  #take(data) {
    const asked = this.#waiting.shift();
    if (!asked) return this.unasked?.(data);
    const took = performance.now() - asked.sent;
    asked.resolve({ data, took, altered: difference(this.#expected(asked.message), data) });
  }

  #expected(message) {
    return typeof message === 'string' ? this.endpoint.prefix + message : message;
  }

  close(...how) {
    this.socket.close(...how);
  }
}

const kind = (message) => (typeof message === 'string' ? 'text' : 'binary');

const bytesOf = (message) => (typeof message === 'string' ? new TextEncoder().encode(message) : new Uint8Array(message));

// The first difference between two messages in words, or null.
function difference(expected, got) {
  if (kind(expected) !== kind(got)) return `it came back as ${kind(got)} instead of ${kind(expected)}`;
  if (expected === got) return null;
  const [want, have] = [expected, got].map(bytesOf);
  const at = want.findIndex((byte, index) => byte !== have[index]);
  const hex = (byte) => `0x${byte.toString(16).padStart(2, '0')}`;
  if (at >= 0 && at < have.length) return `byte ${count(at + 1)} is ${hex(have[at])} instead of ${hex(want[at])}`;
  if (want.length === have.length) return null;
  return `it has ${plural(have.length, 'byte')} instead of ${count(want.length)}`;
}

const CODES = {
  1000: 'normal closure', 1001: 'going away', 1002: 'protocol error', 1003: 'unsupported data',
  1005: 'no code', 1006: 'no Close frame', 1007: 'invalid data', 1008: 'policy violation',
  1009: 'message too big', 1011: 'internal error', 1012: 'service restart', 1013: 'try again later',
  1015: 'TLS failed',
};

// How a WebSocket ended: the code, and the reason given or else the code's meaning.
function closing({ code, reason }) {
  const meaning = reason ? `“${reason}”` : CODES[code];
  return meaning ? `${code}, ${meaning}` : String(code);
}
