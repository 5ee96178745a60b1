// Why a handshake failed. A browser hides the answer to it, so the page asks the server what became of
// the trace, and tries a plain request where the server knows nothing.

// Fetches JSON of the service; null if something else answers, undefined if nothing does.
async function ask(path, query) {
  try {
    const answer = await fetch(address(path, query), { cache: 'no-store', headers: { Accept: 'application/json' } });
    return { status: answer.status, json: await answer.json().catch(() => null) };
  } catch {
    return undefined;
  }
}

// Behind a balancer, each question may go to another instance: so many are asked for one that knows.
const QUESTIONS = 8;

// What the service says of a request with the trace of this line, and which instances were asked.
async function askTrace(line) {
  const instances = new Set();
  let answer;
  for (let asked = 0; asked < QUESTIONS; asked += 1) {
    answer = await ask('/info', `trace=${line.trace}`);
    if (answer?.json?.instance) instances.add(answer.json.instance);
    if (answer?.json?.trace?.outcome !== 'never') break;
  }
  return answer && { ...answer, instances: [...instances] };
}

// The finding about a handshake that did not lead to a WebSocket.
async function diagnose(line) {
  const traced = facts.info ? await askTrace(line) : {};
  if (!traced) return unreachable();
  const { trace, instance, reason, message } = traced.json ?? {};
  // Over a limit, the question is refused as the handshake was. No handshake is for want of memory.
  if (reason && reason !== 'memory_spent') return refused(message);
  const source = `That is what instance ${instance} reports; plain requests still reach it.`;
  const remedy = trace?.lines && trace;
  switch (trace?.outcome) {
    case 'opened':
      return bad('101 lost on the way', 'wsecho answered 101, but no valid 101 came back.', `Something on the way swallowed or changed the answer to the handshake. ${source}`);
    case 'broken':
      return bad('arrived broken', broken(trace.message), source, remedy);
    case 'refused':
      return refused(trace.message, source, remedy);
    default:
      return neverSeen(line, traced);
  }
}

const refused = (message, detail, remedy) => bad('refused', `wsecho refuses the handshake: ${quoted(message)}.`, detail, remedy);

// “A WebSocket handshake arrived, but the proxy in front dropped …”, as a verdict on the proxy.
function broken(message) {
  const what = quoted(message).replace(/^.*?, but /, '').replace(/^the proxy in front /, 'it ').replace(/^without/, 'it arrived without');
  return `The proxy in front of wsecho breaks the handshake: ${what}.`;
}

// The service knows of no such handshake, or was not reached by the question.
async function neverSeen({ endpoint }, { json, instances }) {
  const plain = await ask(endpoint.path);
  if (!plain) return unreachable();
  // This page is at "/", which a plain request gets even if WebSockets are opened there.
  if (endpoint.path !== '/' && !plain.json?.reason) {
    return bad(`refused with ${plain.status}`, `Something in front of wsecho refuses this path: ${plain.status}.`,
      `A plain request for ${endpoint.path} is not answered by wsecho either. Forward this path in the proxy.`);
  }
  if (json?.trace?.outcome !== 'never') {
    return bad('failed', 'The handshake fails, while plain requests get through.', json?.trace
      ? 'wsecho was too busy to remember what became of it. Press “Test again”.'
      : `wsecho does not say why: ${untold(json)}.`);
  }
  const [one, ...others] = instances;
  const elsewhere = others.length ? `None of the instances that answer got it: ${instances.join(', ')}.` : `Or another instance than ${one} got it.`;
  return bad('never arrived', 'The handshake never reached wsecho; plain requests do.',
    `Something on the way stops requests for an upgrade: a proxy, a firewall, or a filter on this computer. ${elsewhere}`);
}

// Why the service tells nothing, by its answer.
function untold(json) {
  if (json?.reason) return quoted(json.message);
  return `/info is ${facts.info ? 'not forwarded' : 'switched off'}`;
}

const unreachable = () => bad('no answer', 'The server does not answer any more.',
  'It answered when this page was loaded, and plain requests fail now too.');
