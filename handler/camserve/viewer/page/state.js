// The state of the page, and the questions that it needs answered.
const CLASSES_ASKED = 5;

let facts = null; // the model description and the palettes
let requestsUnderWay = 0;
const state = {
  photos: [],
  photo: null,
  turn: 0, // of questions: an earlier one that fails late is not shown
  head: "",
  context: "",
  method: "",
  channels: "", // of which a map is made, in the option's words; "": of all
  layer: "",
  question: "for",
  target: null,
  rival: null,
  hovered: null,
  compare: "", // "class:INDEX", "method:NAME" or "channels:"
  split: 0.5,
};

const describedHead = () => facts.description.heads?.[state.head] ?? facts.description;
const isQuantity = () => describedHead().task === "regression";

// Return how many classes one request asks about.
function countAsked() {
  const { max_targets, max_maps } = facts.description.limits;
  return Math.min(CLASSES_ASKED, max_targets, max_maps, describedHead().labels.length || CLASSES_ASKED);
}

function firstTargets() {
  if (!isQuantity()) return `top:${countAsked()}`;
  return Array.from({ length: countAsked() }, (_, index) => `index:${index}`).join();
}

// Return what one map is about, but for its class.
function viewNow(changes = {}) {
  const { head, context, method, layer, channels, question, rival } = state;
  const contrast = question === "contrast" ? rival : null;
  const evidence = question === "for" || question === "against" ? question : "signed";
  return { head, context, method, layer, channels, contrast, evidence, ...changes };
}

// Return what the first answer about a photo is about: its predictions shall not hang on a reader's words.
const firstView = () => viewNow({ evidence: "for", contrast: null, channels: "" });

// Return [view, class] of the map to compare with; null: none.
function comparedMap() {
  const at = state.compare.indexOf(":");
  const [kind, value] = [state.compare.slice(0, at), state.compare.slice(at + 1)];
  if (kind === "class") return [viewNow(), Number(value)];
  if (kind === "channels") return [viewNow({ channels: "" }), state.target];
  return kind === "method" ? [viewNow({ method: value }), state.target] : null;
}

function checkSize(file) {
  const most = facts.description.limits.max_bytes;
  if (file.size <= most) return;
  const [has, takes] = [file.size, most].map((bytes) => (bytes / 1e6).toFixed(1));
  throw new Refusal(`This photo has ${has} MB, and the server takes ${takes} MB. Make it smaller and try again.`);
}

async function ask(photo, view, index) {
  checkSize(photo.file);
  const options = optionsOf(view, index === null ? firstTargets() : `index:${index}`, facts.description);
  $("working").hidden = !++requestsUnderWay;
  try {
    const answer = await askAbout(photo.file, options, (text) => photo === state.photo && showRefusal(text));
    keepAnswer(bookOf(photo, view), view, answer, options);
  } finally {
    $("working").hidden = !--requestsUnderWay;
  }
}

// Ask for a map, or with null for the first classes, unless it is known or under way.
function need(photo, view, index) {
  const book = bookOf(photo, view);
  if (index === null ? book.predictions.length : book.maps.has(mapKey(view, index))) return undefined;
  const key = JSON.stringify([view, index]);
  photo.asked ??= new Map();
  if (!photo.asked.has(key)) photo.asked.set(key, ask(photo, view, index).finally(() => photo.asked.delete(key)));
  return photo.asked.get(key);
}

function chooseDefaults(photo) {
  const { predictions } = bookOf(photo, state);
  state.target ??= predictions[0].index;
  const others = predictions.map(({ index }) => index).filter((index) => index !== state.target);
  if (!others.includes(state.rival)) state.rival = others[0] ?? null;
  const same = [`class:${state.target}`, `method:${state.method}`, ...(state.channels ? [] : ["channels:"])];
  if (same.includes(state.compare)) state.compare = "";
}

async function loadMaps(photo) {
  photo.picture ??= await decodePhoto(photo.file, STAGE_SIDE);
  if (photo === state.photo) draw();
  await need(photo, firstView(), null);
  photo.picture = fitPhoto(photo.picture, bookOf(photo, state).input, STAGE_SIDE);
  if (photo !== state.photo) return;
  chooseDefaults(photo);
  draw();
  await need(photo, viewNow(), state.target);
  const compared = comparedMap();
  if (compared) await need(photo, ...compared);
}

// Get what the chosen question needs, and show it.
async function refresh() {
  const [photo, turn] = [state.photo, ++state.turn];
  if (!photo || !facts) return;
  photo.refusal = null;
  try {
    await loadMaps(photo);
  } catch (refusal) {
    if (!(refusal instanceof Refusal)) throw refusal;
    if (refusal.needsToken) return askForToken(token ? TOKEN_REFUSED : "");
    if (turn === state.turn || photo !== state.photo) photo.refusal = refusal;
  }
  draw();
  if (turn === state.turn) announce(photo.refusal?.message ?? writeSpoken(leftMap(), bookOf(photo, state).input));
}
