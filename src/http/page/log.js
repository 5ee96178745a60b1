// The log of frames and events, newest first.

// Beyond this many rows a browser takes long to lay out the table.
const ROWS = 300;
const SHOWN_LENGTH = 200;

const log = {
  lines: [],

  // Notes an event: `what` it is, an arrow for a frame's direction, and what is known of it.
  add(what, content, { arrow = '·', bytes, took, bad } = {}) {
    const time = new Date(Date.now() - new Date().getTimezoneOffset() * 60_000).toISOString().slice(11, 23);
    const shown = content.length > SHOWN_LENGTH ? `${content.slice(0, SHOWN_LENGTH)} …` : content;
    const cells = [time, arrow, what, bytes === undefined ? '' : count(bytes), took === undefined ? '' : duration(took), shown];
    const row = make('tr', {}, ...cells.map((text, index) => make('td', { className: index === 3 || index === 4 ? 'n' : '' }, text)));
    if (bad) row.lastElementChild.className = 'bad';
    byId('entries').prepend(row);
    this.lines.unshift(cells.filter(Boolean).join('  '));
    if (this.lines.length > ROWS) {
      this.lines.pop();
      byId('entries').lastElementChild.remove();
    }
    byId('no-entries').hidden = true;
  },

  // A message that was sent, or came.
  frame(arrow, message, took) {
    const content = kind(message) === 'text' ? message : `(${hexOf(message)})`;
    this.add(kind(message), content, { arrow, took, bytes: bytesOf(message).length });
  },

  end(what, ended) {
    this.add(what, closing(ended), { bad: !ended.wasClean });
  },

  clear() {
    this.lines = [];
    byId('entries').replaceChildren();
    byId('no-entries').hidden = false;
  },
};

const hexOf = (message) => {
  const first = Array.from(new Uint8Array(message, 0, Math.min(8, message.byteLength)), (byte) => byte.toString(16).padStart(2, '0'));
  return first.join(' ') + (message.byteLength > 8 ? ' …' : '');
};

byId('clear').onclick = () => log.clear();
byId('copy-log').onclick = ({ target }) => copy(log.lines.join('\n'), target);
