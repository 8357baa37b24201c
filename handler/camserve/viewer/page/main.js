// What a reader does.
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
  predictAll(added);
}

// Predict photos that wait in the strip, one after the other; a refused one says so when it is chosen.
async function predictAll(photos) {
  for (const photo of photos) {
    photo.thumbnail = await decodePhoto(photo.file, THUMBNAIL_SIDE);
    showStrip(state.photos, state.photo, show);
  }
  for (const photo of photos) {
    try {
      await need(photo, firstView(), null);
    } catch (refusal) {
      photo.refusal = refusal;
    }
    showStrip(state.photos, state.photo, show);
  }
}

function choose(index) {
  Object.assign(state, { target: index, hovered: null });
  refresh();
}

function chooseChannels(text) {
  const asked = text.replaceAll(" ", "");
  state.channels = asked === "all" ? "" : asked;
  $("channels-asked").value = state.channels;
  refresh();
}

function preview(index) {
  state.hovered = index;
  draw();
}

function askForToken(refused) {
  $("main").hidden = true;
  $("token-form").hidden = false;
  $("token-refused").hidden = !refused;
  $("token-refused").textContent = refused;
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
    return askForToken(refusal.needsToken ? TOKEN_REFUSED : refusal.message);
  }
  $("token-form").hidden = true;
  $("main").hidden = false;
  return refresh();
}

function openModel(found) {
  facts = found;
  const { description, palettes } = facts;
  const defaults = description.defaults;
  document.title = `${description.model.name} · camserve`;
  $("model").textContent = `${description.model.name} ${description.model.version}`;
  Object.assign(state, { method: defaults.method.split(",")[0], context: defaults.context, head: "" });
  description.shown = Math.min(description.limits.max_top_k, CLASSES_ASKED);
  setChoices($("method"), Object.entries(description.methods).map(([name]) => [name, name]), state.method);
  setChoices($("layer"), description.layers.map(({ name }, at) => [at ? name : "", name]), "");
  setChoices($("head"), Object.keys(description.heads ?? {}).map((name, at) => [at ? name : "", name]), "");
  const ofEvidence = ["diverging", "against"]; // chosen by what a map shows
  const offered = Object.keys(palettes).filter((name) => !ofEvidence.includes(name));
  setChoices($("palette"), offered.map((name) => [name, name]), defaults.palette);
  $("layer-choice").hidden = description.layers.length < 2;
  $("head-choice").hidden = !description.heads;
  $("context-row").hidden = !description.takes_context;
  $("context").value = defaults.context;
  $("most-bytes").textContent = `, at most ${(description.limits.max_bytes / 1e6).toFixed(1)} MB each`;
  $("choices").hidden = false;
  showSamples(facts.samples, addPhotos);
  showMethod();
}

function showMethod() {
  const { source, passes } = facts.description.methods[state.method];
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
  if (map) showValue(valueUnder(place, map, bookOf(state.photo, state).input), map);
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
  save(await drawSaved(state.photo.file, input, left, right, state.split, isGrey(left.map)), `${exportName()}.png`);
}

function saveJson() {
  save(new Blob([JSON.stringify(leftMap().answer, null, 1)], { type: "application/json" }), `${exportName()}.json`);
}

function closeOpened() {
  $("find").value = "";
  $("found").replaceChildren();
  for (const id of Object.keys(WRITERS)) $(id).setAttribute("aria-expanded", "false");
  keepCommand();
}

function wireChoices() {
  onChange("method", (value) => { state.method = value; showMethod(); });
  onChange("layer", (value) => { state.layer = value; });
  onChange("head", (value) => Object.assign(state, { head: value, target: null, rival: null, compare: "" }));
  onChange("context", (value) => Object.assign(state, { context: value, target: null, rival: null, compare: "" }));
  $("channels-asked").addEventListener("change", (event) => chooseChannels(event.target.value));
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

// Light or dark as the system has it, until a reader chooses; a reload forgets the choice.
function wireTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const { dataset } = document.documentElement;
  const isDark = () => (dataset.theme ? dataset.theme === "dark" : system.matches);
  const showTheme = () => $("theme").setAttribute("aria-pressed", String(isDark()));
  system.addEventListener("change", showTheme);
  $("theme").addEventListener("click", () => {
    dataset.theme = isDark() ? "light" : "dark";
    showTheme();
    announce(`${dataset.theme} colours`);
  });
  showTheme();
}

function wire() {
  watchPhotos(addPhotos);
  wireChoices();
  for (const id of ["opacity", "palette", "grey"]) $(id).addEventListener("input", () => state.photo && draw());
  $("swipe").addEventListener("input", (event) => moveSplit(event.target.value / 100));
  $("stage").addEventListener("pointermove", movePointer);
  $("stage").addEventListener("pointerdown", movePointer);
  $("stage").addEventListener("pointerleave", () => leftMap() && showValue(undefined, leftMap()));
  $("find").addEventListener("input", (event) =>
    showFound(describedHead().labels, event.target.value, (index) => { closeOpened(); choose(index); }));
  document.addEventListener("keydown", (event) => event.key === "Escape" && closeOpened());
  $("save-picture").addEventListener("click", savePicture);
  $("save-json").addEventListener("click", saveJson);
  for (const id of Object.keys(WRITERS)) $(id).addEventListener("click", () => showCommand(id));
  $("token-form").addEventListener("submit", useToken);
  if (matchMedia("(max-width: 46rem)").matches) $("look").open = false;
}

wire();
wireTheme();
const embedded = parseOrNull($("facts").textContent);
if (embedded) openModel(embedded);
else askForToken("");
