// From the state to what is seen.
const FAINTEST = 0.4; // of the chosen opacity, for a map without any strength

const mapAt = (view, index) => bookOf(state.photo, view).maps.get(mapKey(view, index));
const leftMap = () => mapAt(viewNow(), state.hovered ?? state.target) ?? mapAt(viewNow(), state.target);

const isGrey = (map) => $("grey").value === "always" || ($("grey").value === "auto" && map?.evidence === "signed");

const PALETTE_OF = { signed: () => facts.palettes.diverging, against: () => facts.palettes.against };

// Return a map with the colours and the opacity that it is drawn with.
function layerOf(map) {
  if (!map) return null;
  const palette = PALETTE_OF[map.evidence]?.() ?? facts.palettes[$("palette").value];
  const strength = strengthOf(bookOf(state.photo, state), map) ?? 1;
  const opacity = ($("opacity").value / 100) * (FAINTEST + (1 - FAINTEST) * strength);
  return { map, table: colourTable(palette), opacity };
}

function rightMap() {
  const compared = comparedMap();
  return compared && mapAt(...compared);
}

function showRefusal(text, canRetry = false, name = "") {
  const again = element("button", { type: "button", textContent: "try again" });
  again.addEventListener("click", refresh);
  const title = element("strong", {}, element("bdi", { textContent: name }));
  $("refused").replaceChildren(title, text, ...(canRetry ? [" ", again] : []));
  $("refused").hidden = !text;
}

function drawPicture(photo, book, left, right) {
  const canvas = $("stage");
  if (photo.picture) drawStage(canvas, photo.picture, book.input, left, right, state.split, isGrey(left?.map));
  $("frame").hidden = !photo.picture;
  canvas.setAttribute("aria-label", left ? writeSpoken(left.map, book.input) : "the photo");
  $("caption").textContent = left ? writeCaption(left.map) : "";
  $("divider").hidden = $("swipe-row").hidden = !right;
  $("divider").style.left = `${state.split * 100}%`;
  if (right) [$("left-name").textContent, $("right-name").textContent] = sideNames(left.map, right.map);
  showLegend(left);
}

// Return what the two sides are: the legend is that of the left one alone.
function sideNames(left, right) {
  const isSameClass = left.target.index === right.target.index;
  return [left, right].map((map) => {
    const name = isSameClass && !activeChannel(map) ? makingOf(map).join(", ") : subjectOf(map);
    return map.status === "ok" ? `${name}, up to ${writeValue(map.scale, map)}` : `${name}: ${STATUS[map.status]}`;
  });
}

function drawChoices(book) {
  const others = book.predictions.filter(({ index }) => index !== state.target);
  const named = others.map(({ index, label }) => [String(index), label]);
  setChoices($("rival"), named, String(state.rival));
  $("contrast").hidden = !others.length;
  const methods = Object.keys(facts.description.methods).filter((name) => name !== state.method);
  const pairs = [
    ["", "nothing"],
    ...named.filter(([index]) => state.question !== "contrast" || Number(index) !== state.rival)
      .map(([index, label]) => [`class:${index}`, label]),
    ...methods.map((name) => [`method:${name}`, name]),
    ...(state.channels ? [["channels:", "all channels"]] : []),
  ];
  setChoices($("compare"), pairs, state.compare);
}

function drawAnswer(photo, book, left) {
  $("answer").hidden = !book.predictions.length;
  if ($("answer").hidden) return;
  showClasses(book.predictions, state.target, { book, choose, preview });
  drawChoices(book);
  showStrength(left?.map, left ? strengthOf(book, left.map) : null);
  showWarnings([...(left?.map.warnings ?? []), ...book.warnings], left?.map);
  if (photo.picture?.isBlank) $("warnings").append(writeNote(NOT_SHOWN));
  showChannels(left?.map, chooseChannels);
  for (const button of $("exports").children) button.disabled = !left;
  if (left) keepCommand();
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
  showRefusal(photo.refusal?.message ?? "", photo.refusal?.canRetry, photo.file.name);
  showStrip(photos, photo, show);
}
