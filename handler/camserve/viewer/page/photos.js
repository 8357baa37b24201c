// The photos of this visit: dropped, pasted, chosen or taken.
const MOST_PHOTOS = 24;
const THUMBNAIL_SIDE = 224; // pixels

function newPhoto(file) {
  return { file, books: new Map(), picture: null, thumbnail: null, refusal: null };
}

// Return what is known of a photo for one output and text: predictions, warnings, maps by view and class.
function bookOf(photo, { head, context }) {
  const key = JSON.stringify([head, context]);
  if (!photo.books.has(key)) photo.books.set(key, { predictions: [], warnings: [], maps: new Map(), input: null });
  return photo.books.get(key);
}

const mapKey = ({ method, layer, channels, evidence, contrast }, index) =>
  JSON.stringify([method, layer, channels, evidence, contrast, index]);

// Keep the maps of an answer, and classes that are new.
function keepAnswer(book, view, answer, options) {
  book.input = answer.input;
  if (!book.predictions.length) {
    book.predictions = [...answer.predictions];
    book.warnings = answer.warnings.filter((warning) => !("explanation" in warning));
  }
  answer.explanations.forEach((explanation, number) => {
    const warnings = answer.warnings.filter((warning) => warning.explanation === number);
    const own = { ...options, target: `index:${explanation.target.index}` }; // asks for this map alone
    const map = { ...explanation, warnings, answer, options: own };
    book.maps.set(mapKey(view, map.target.index), map);
    if (!book.predictions.some(({ index }) => index === map.target.index)) book.predictions.push(map.target);
  });
}

const isAlike = (one, other) =>
  one.method === other.method && one.layer === other.layer && one.of_channels?.asked === other.of_channels?.asked;

// Return a map's strength, or its scale over the largest of its kind, 0 to 1; null: unknown, or it shows no evidence.
function strengthOf(book, map) {
  if (activeChannel(map)) return null;
  if (typeof map.strength === "number") return map.strength;
  const alike = [...book.maps.values()].filter((other) => isAlike(map, other));
  const strongest = Math.max(...alike.map(({ scale }) => scale), 0);
  return alike.length > 1 && strongest > 0 ? map.scale / strongest : null;
}

function stripButton(photo, isCurrent, choose) {
  const [best] = [...photo.books.values()].flatMap(({ predictions }) => predictions.slice(0, 1));
  const text = photo.refusal ? "refused" : (best?.label ?? photo.file.name);
  const button = element("button", { type: "button", title: photo.file.name });
  button.append(photo.thumbnail ?? element("canvas", { width: 4, height: 3 }), element("bdi", { textContent: text }));
  button.setAttribute("aria-current", String(isCurrent));
  button.addEventListener("click", () => choose(photo));
  return button;
}

function showStrip(photos, current, choose) {
  const strip = $("strip");
  const focused = [...strip.children].indexOf(document.activeElement);
  strip.hidden = photos.length < 2;
  strip.replaceChildren(...photos.map((photo) => stripButton(photo, photo === current, choose)));
  strip.children[focused]?.focus();
}

// Return the file that a data URI holds.
function fileOf(uri, name) {
  const [head, text] = uri.split(",");
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new File([bytes], name, { type: head.slice("data:".length).split(";")[0] });
}

// Offer the photos that the archive brings along.
function showSamples(uris, add) {
  $("samples").hidden = !uris.length;
  $("samples").append(
    ...uris.map((src, at) => {
      const name = `sample photo ${at + 1}`;
      const button = element("button", { type: "button" }, element("img", { src, alt: name }));
      button.addEventListener("click", () => add([fileOf(src, `sample-${at + 1}.jpg`)]));
      return button;
    }),
  );
}

// Call `add` with the files that a reader drops, pastes, chooses or takes.
function watchPhotos(add) {
  for (const input of [$("choose"), $("camera")]) {
    input.addEventListener("change", () => {
      add([...input.files]);
      input.value = ""; // the same photo may be chosen again
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) add(files);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.dataset.dragging = "";
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) delete document.body.dataset.dragging;
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    delete document.body.dataset.dragging;
    add([...event.dataTransfer.files]);
  });
}
