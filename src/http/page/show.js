// How the page shows elements, durations and sizes. Whatever comes from the network is only ever set as
// text.

const facts = JSON.parse(document.querySelector('meta[name=wsecho]').content);

const byId = (id) => document.getElementById(id);

// An element with properties and children, of which strings become text.
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// The same in a drawing, with attributes.
function draw(name, attributes, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const count = (number) => number.toLocaleString('en');

const plural = (number, noun) => `${count(number)}\u00a0${noun}${number === 1 ? '' : 's'}`;

// A duration of `ms`. Without isolation, browsers round their clock to a millisecond.
function duration(ms) {
  if (ms < 1 && !crossOriginIsolated) return '<\u20091\u00a0ms';
  if (ms >= 999.5) return `${(ms / 1000).toFixed(ms < 9995 ? 2 : 1)}\u00a0s`;
  return `${ms.toFixed(ms < 0.995 ? 2 : ms < 9.95 ? 1 : 0)}\u00a0ms`;
}

// A limit that was observed: limits are whole seconds, and are seen a little late.
function limit(ms) {
  const whole = Math.round(ms / 1000);
  return Math.abs(ms / 1000 - whole) <= whole * 0.02 ? `${whole}\u00a0s` : duration(ms);
}

const clock = (ms) => {
  const seconds = Math.floor(ms / 1000);
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
};

function size(bytes) {
  const [unit, name] = [[2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [1024, 'KiB']].find(([unit]) => bytes >= unit) ?? [1, 'B'];
  return `${Number((bytes / unit).toFixed(1))}\u00a0${name}`;
}

// Copies a text and says so on the button. Without https there is no clipboard but the selection's.
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make('textarea', { value: text });
    button.after(area);
    area.select();
    document.execCommand('copy');
    area.remove();
    button.focus();
  }
  const label = button.textContent;
  button.textContent = 'Copied';
  await sleep(1500);
  button.textContent = label;
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// What a promise resolves to, or undefined after `ms`.
const within = (ms, promise) => Promise.race([promise, sleep(ms)]);
