// The state of the page, and what changes it.
const FAINTEST = 0.35; // of the chosen opacity, for a map without any strength
const CLASSES_ASKED = 5;

let facts = null; // the model card and the palettes
let requestsUnderWay = 0;
const state = {
  photos: [],
  photo: null,
  turn: 0, // of questions: an earlier one that fails late is not shown
  head: "",
  context: "",
  method: "",
  layer: "",
  question: "for",
  target: null,
  rival: null,
  hovered: null,
  compare: "", // "class:INDEX" or "method:NAME"
  split: 0.5,
};

const cardHead = () => facts.card.heads?.[state.head] ?? facts.card;
const isQuantity = () => cardHead().task === "regression";

// Return how many classes one request asks about.
function countAsked() {
  const { max_targets, max_maps } = facts.card.limits;
  return Math.min(CLASSES_ASKED, max_targets, max_maps, cardHead().labels.length || CLASSES_ASKED);
}

function firstTargets() {
  if (!isQuantity()) return `top:${countAsked()}`;
  return Array.from({ length: countAsked() }, (_, index) => `index:${index}`).join();
}

// Return what one map is about, but for its class.
function viewNow(changes = {}) {
  const { head, context, method, layer, question, rival } = state;
  const contrast = question === "contrast" ? rival : null;
  const evidence = question === "for" || question === "against" ? question : "signed";
  return { head, context, method, layer, contrast, evidence, ...changes };
}

// Return [view, class] of the map to compare with; null: none.
function comparedMap() {
  const at = state.compare.indexOf(":");
  const [kind, value] = [state.compare.slice(0, at), state.compare.slice(at + 1)];
  if (kind === "class") return [viewNow(), Number(value)];
  return kind === "method" ? [viewNow({ method: value }), state.target] : null;
}

function checkSize(file) {
  const most = facts.card.limits.max_bytes;
  if (file.size <= most) return;
  const [has, takes] = [file.size, most].map((bytes) => (bytes / 1e6).toFixed(1));
  throw new Refusal(`This photo has ${has} MB, and the server takes ${takes} MB. Make it smaller and try again.`);
}

async function ask(photo, view, index) {
  checkSize(photo.file);
  const options = optionsOf(view, index === null ? firstTargets() : `index:${index}`, facts.card);
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
  if (state.compare === `class:${state.target}` || state.compare === `method:${state.method}`) state.compare = "";
}

async function loadMaps(photo) {
  photo.picture ??= await decodePhoto(photo.file, STAGE_SIDE);
  if (!photo.thumbnail) makeThumbnail(photo);
  if (photo === state.photo) draw();
  await need(photo, viewNow({ evidence: "for", contrast: null }), null);
  photo.picture ??= blankPhoto(bookOf(photo, state).input, STAGE_SIDE);
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
    if (refusal.needsToken) return askForToken(token !== "");
    if (turn === state.turn || photo !== state.photo) photo.refusal = refusal;
  }
  draw();
  if (turn === state.turn) announce(photo.refusal?.message ?? writeSpoken(leftMap(), bookOf(photo, state).input));
}

const mapAt = (view, index) => bookOf(state.photo, view).maps.get(mapKey(view, index));
const leftMap = () => mapAt(viewNow(), state.hovered ?? state.target) ?? mapAt(viewNow(), state.target);

function strengthOf(map) {
  const strongest = strongestScale(bookOf(state.photo, state), map);
  return strongest > 0 ? map.scale / strongest : 0;
}

const PALETTE_OF = { signed: () => facts.palettes.diverging, against: () => AGAINST };

// Return a map with the colours and the opacity that it is drawn with.
function layerOf(map) {
  if (!map) return null;
  const palette = PALETTE_OF[map.evidence]?.() ?? facts.palettes[$("palette").value];
  const opacity = ($("opacity").value / 100) * (FAINTEST + (1 - FAINTEST) * strengthOf(map));
  return { map, table: colourTable(palette), opacity };
}

function rightMap() {
  const compared = comparedMap();
  return compared && mapAt(...compared);
}

function showRefusal(text, canRetry = false) {
  const again = element("button", { type: "button", textContent: "try again" });
  again.addEventListener("click", refresh);
  $("refused").replaceChildren(text, ...(canRetry ? [" ", again] : []));
  $("refused").hidden = !text;
}

function drawPicture(photo, book, left, right) {
  const canvas = $("stage");
  if (photo.picture) drawStage(canvas, photo.picture, book.input, left, right, state.split, $("grey").checked);
  $("frame").hidden = !photo.picture;
  canvas.setAttribute("aria-label", left ? writeSpoken(left.map, book.input) : "the photo");
  $("caption").textContent = left ? writeCaption(left.map) : "";
  $("divider").hidden = $("swipe-row").hidden = !right;
  $("divider").style.left = `${state.split * 100}%`;
  if (right) [$("left-name").textContent, $("right-name").textContent] = sideNames(left.map, right.map);
  showLegend(left);
}

function sideNames(left, right) {
  return left.target.index === right.target.index ? [left.method, right.method] : [left.target.label, right.target.label];
}

function drawChoices(book) {
  const others = book.predictions.filter(({ index }) => index !== state.target);
  const named = others.map(({ index, label }) => [String(index), label]);
  setChoices($("rival"), named, String(state.rival));
  $("rather").hidden = $("rival").hidden = !others.length;
  const methods = Object.keys(facts.card.methods).filter((name) => name !== state.method);
  const pairs = [
    ["", "nothing"],
    ...named.filter(([index]) => state.question !== "contrast" || Number(index) !== state.rival)
      .map(([index, label]) => [`class:${index}`, label]),
    ...methods.map((name) => [`method:${name}`, name]),
  ];
  setChoices($("compare"), pairs, state.compare);
}

function drawAnswer(photo, book, left) {
  $("answer").hidden = !book.predictions.length;
  if ($("answer").hidden) return;
  showClasses(book.predictions, state.target, { photo: `${state.photos.indexOf(photo)} ${state.head}`, choose, preview });
  drawChoices(book);
  $("strength").textContent = left ? writeStrength(left.map, strengthOf(left.map)) : "";
  showWarnings([...(left?.map.warnings ?? []), ...book.warnings]);
  showChannels(left?.map);
  for (const button of $("exports").children) button.disabled = !left;
}

function draw() {
  const { photo, photos } = state;
  document.body.dataset.state = photo ? "shown" : "empty";
  $("picture").hidden = !photo;
  if (!photo) return;
  const book = bookOf(photo, state);
  const [left, right] = [layerOf(leftMap()), layerOf(rightMap())];
  drawPicture(photo, book, left, left && right);
  drawAnswer(photo, book, left);
  showRefusal(photo.refusal?.message ?? "", photo.refusal?.canRetry);
  showStrip(photos, photo, show);
}

function show(photo) {
  if (state.photo && state.photo !== photo) state.photo.picture = null;
  Object.assign(state, { photo, target: null, hovered: null, compare: "" });
  refresh();
}

function addPhotos(files) {
  if (!files.length || !facts) return;
  const added = files.slice(0, MOST_PHOTOS).map(newPhoto);
  state.photos = [...added, ...state.photos].slice(0, MOST_PHOTOS);
  show(added[0]);
}

function choose(index) {
  Object.assign(state, { target: index, hovered: null });
  refresh();
}

function preview(index) {
  state.hovered = index;
  draw();
}

function askForToken(wasRefused) {
  $("main").hidden = true;
  $("token-form").hidden = false;
  $("token-refused").hidden = !wasRefused;
  $("token").focus();
}

async function useToken(event) {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  try {
    const fresh = await readFacts();
    if (!facts) openModel(fresh);
  } catch (refusal) {
    $("token-refused").textContent = refusal.needsToken ? "The server does not accept this token: it is wrong, or has ended."
      : refusal.message;
    return askForToken(true);
  }
  $("token-form").hidden = true;
  $("main").hidden = false;
  return refresh();
}

function openModel(found) {
  facts = found;
  const { card, palettes } = facts;
  const defaults = card.defaults;
  document.title = `${card.model.name} · camserve`;
  $("model").textContent = `${card.model.name} ${card.model.version}`;
  Object.assign(state, { method: defaults.method.split(",")[0], context: defaults.context, head: "" });
  card.shown = Math.min(card.limits.max_top_k, CLASSES_ASKED);
  setChoices($("method"), Object.entries(card.methods).map(([name]) => [name, name]), state.method);
  setChoices($("layer"), card.layers.map(({ name }, at) => [at ? name : "", name]), "");
  setChoices($("head"), Object.keys(card.heads ?? {}).map((name, at) => [at ? name : "", name]), "");
  setChoices($("palette"), Object.keys(palettes).filter((name) => name !== "diverging").map((name) => [name, name]),
    defaults.palette);
  $("layer-choice").hidden = card.layers.length < 2;
  $("head-choice").hidden = !card.heads;
  $("context-row").hidden = !card.takes_context;
  $("context").value = defaults.context;
  $("most-bytes").textContent = `, at most ${(card.limits.max_bytes / 1e6).toFixed(1)} MB each`;
  $("choices").hidden = false;
  showMethod();
}

function showMethod() {
  const { source, passes } = facts.card.methods[state.method];
  $("method").title = `${source}; cost: ${passes}`;
}

// Call `change` with the element's value when it changes, then ask what the change needs.
function onChange(id, change) {
  $(id).addEventListener("change", (event) => {
    change(event.target.value);
    refresh();
  });
}

function movePointer(event) {
  const [left, right] = [leftMap(), rightMap()];
  const place = pointerShare(event, $("stage"));
  if (right && event.buttons === 1) moveSplit(clamp(place[0], 0, 1));
  const map = right && place[0] >= state.split ? right : left;
  const value = map && valueUnder(place, map, bookOf(state.photo, state).input);
  $("under-pointer").textContent =
    value === undefined ? "" : `here: ${writeNumber(value * map.scale)} ${unitOf(map)}`;
}

function moveSplit(share) {
  state.split = share;
  $("swipe").value = String(Math.round(share * 100));
  draw();
}

const currentExport = () => [state.photo.file, leftMap().options, token !== ""];
const exportName = () => leftMap().target.label.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) || "map";

async function savePicture() {
  const [left, right] = [layerOf(leftMap()), layerOf(rightMap())];
  const { input } = bookOf(state.photo, state);
  save(await drawSaved(state.photo.file, input, left, right, state.split, $("grey").checked), `${exportName()}.png`);
}

function saveJson() {
  save(new Blob([JSON.stringify(leftMap().answer, null, 1)], { type: "application/json" }), `${exportName()}.json`);
}

function closeOpened() {
  $("find").value = "";
  $("found").replaceChildren();
  $("command").hidden = true;
  for (const id of ["show-curl", "show-python"]) $(id).setAttribute("aria-expanded", "false");
}

function wireChoices() {
  onChange("method", (value) => { state.method = value; showMethod(); });
  onChange("layer", (value) => { state.layer = value; });
  onChange("head", (value) => Object.assign(state, { head: value, target: null, rival: null, compare: "" }));
  onChange("context", (value) => Object.assign(state, { context: value, target: null, rival: null, compare: "" }));
  onChange("compare", (value) => { state.compare = value; });
  onChange("rival", (value) => {
    Object.assign(state, { rival: Number(value), question: "contrast" });
    document.querySelector("[name=question][value=contrast]").checked = true;
  });
  for (const input of document.querySelectorAll("[name=question]")) {
    input.addEventListener("change", () => {
      state.question = input.value;
      refresh();
    });
  }
}

function wire() {
  watchPhotos(addPhotos);
  wireChoices();
  for (const id of ["opacity", "palette", "grey"]) $(id).addEventListener("input", () => state.photo && draw());
  $("swipe").addEventListener("input", (event) => moveSplit(event.target.value / 100));
  $("stage").addEventListener("pointermove", movePointer);
  $("stage").addEventListener("pointerdown", movePointer);
  $("stage").addEventListener("pointerleave", () => { $("under-pointer").textContent = ""; });
  $("find").addEventListener("input", (event) =>
    showFound(cardHead().labels, event.target.value, (index) => { closeOpened(); choose(index); }));
  document.addEventListener("keydown", (event) => event.key === "Escape" && closeOpened());
  $("save-picture").addEventListener("click", savePicture);
  $("save-json").addEventListener("click", saveJson);
  $("show-curl").addEventListener("click", (event) => showCommand(writeCurl(...currentExport()), event.target));
  $("show-python").addEventListener("click", (event) => showCommand(writePython(...currentExport()), event.target));
  $("token-form").addEventListener("submit", useToken);
  if (matchMedia("(max-width: 46rem)").matches) $("look").open = false;
}

wire();
const embedded = parseOrNull($("facts").textContent);
if (embedded) openModel(embedded);
else askForToken(false);
