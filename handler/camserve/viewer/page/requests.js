// Questions to the server that the page came from. The token lives in this variable and nowhere else.
const WAITS = [1, 2, 4, 8]; // seconds before another try
const TRY_AGAIN = new Set([429, 502, 503, 504]);
let token = "";

// What the server said instead of an answer.
class Refusal extends Error {
  constructor(message, { needsToken = false, canRetry = false } = {}) {
    super(message);
    Object.assign(this, { needsToken, canRetry });
  }
}

const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

function fetchHere(settings = {}, headers = {}) {
  return fetch(location.pathname, {
    ...settings,
    headers: token ? { ...headers, Authorization: `Bearer ${token}` } : headers,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "no-referrer",
  });
}

function parseOrNull(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function refusalOf(status, text) {
  const body = parseOrNull(text);
  const needsToken = status === 401 || status === 403 || body?.type === "InvalidKeyException";
  const known = body?.error?.message ?? REFUSALS[status] ?? body?.message;
  const message = known ?? `The server answers with status ${status}.`;
  return new Refusal(String(message), { needsToken, canRetry: TRY_AGAIN.has(status) });
}

async function tryOnce(settings, headers) {
  let response;
  let text;
  try {
    response = await fetchHere(settings, headers);
    text = await response.text();
  } catch {
    throw new Refusal(UNREACHABLE, { canRetry: true });
  }
  if (!response.ok) throw refusalOf(response.status, text);
  return text;
}

// Return the text of the answer. Refusal: why there is none, after some tries where trying again can help.
async function askServer(settings, headers, report = () => {}) {
  for (const wait of WAITS) {
    try {
      return await tryOnce(settings, headers);
    } catch (refusal) {
      if (!refusal.canRetry) throw refusal;
      report(`${refusal.message} Trying again in ${wait} s.`);
      await sleep(wait);
    }
  }
  return tryOnce(settings, headers);
}

// Return the facts of the page that the server gives to those with a token. A page without any: the token is wrong.
async function readFacts() {
  const page = await askServer({}, { Accept: "text/html" });
  const [, after] = page.split('id="facts">');
  const facts = parseOrNull(after?.split("<\/script>")[0]);
  if (!facts) throw new Refusal("This server gives no page for the model.", { needsToken: after !== undefined });
  return facts;
}

// Return the options that ask about `targets` in a view.
function optionsOf(view, targets, description) {
  return {
    explain: "true",
    format: "grid",
    compat: "none",
    details: "channels",
    target: targets,
    contrast: view.contrast === null ? "none" : `index:${view.contrast}`,
    evidence: view.evidence,
    method: view.method,
    top_k: String(description.shown),
    ...(view.layer ? { layer: view.layer } : {}),
    ...(view.channels ? { channels: view.channels } : {}),
    ...(view.head ? { head: view.head } : {}),
    ...(view.context ? { context: view.context } : {}),
  };
}

// Return the answer about one photo. Its name and type stay here: the server reads the bytes.
async function askAbout(file, options, report) {
  const form = new FormData();
  form.append("data", file.slice(0, file.size, "application/octet-stream"), "photo");
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  return JSON.parse(await askServer({ method: "POST", body: form }, { Accept: "application/json" }, report));
}
