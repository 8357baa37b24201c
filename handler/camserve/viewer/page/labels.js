// The list of classes, and finding one among all.
const MOST_FOUND = 12;

function classRow(prediction, isChosen, act) {
  const row = element(
    "label",
    { title: `score ${writeNumber(prediction.score)}` },
    element("input", { type: "radio", name: "class", value: prediction.index, checked: isChosen }),
    element("bdi", { textContent: prediction.label }),
    element("span", { textContent: writeMeaning(prediction) }),
    probabilityBar(prediction),
  );
  row.addEventListener("change", () => act.choose(prediction.index));
  // Not for a finger: the caption's height may change, and another row would lie under it.
  row.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && act.preview(prediction.index));
  row.addEventListener("pointerleave", () => act.preview(null));
  return row;
}

function probabilityBar(prediction) {
  const bar = element("i");
  bar.style.width = `${(prediction.probability ?? 0) * 100}%`;
  return bar;
}

// Show the classes in place, so that a row that has the focus keeps it.
function showClasses(predictions, target, act) {
  const [place, key] = [$("classes"), predictions.map(({ index }) => index).join()];
  if (place.dataset.key !== key || place.book !== act.book) {
    const hadFocus = place.contains(document.activeElement);
    place.replaceChildren(...predictions.map((prediction) => classRow(prediction, prediction.index === target, act)));
    place.book = act.book;
    place.dataset.key = key;
    if (hadFocus) place.querySelector(":checked")?.focus();
  }
  for (const input of place.querySelectorAll("input")) input.checked = Number(input.value) === target;
}

// Return [index, label] of classes whose label holds the text, or whose number it is.
function findClasses(labels, text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const found = [];
  for (const [index, label] of labels.entries()) {
    if (String(index) === wanted) found.unshift([index, label]);
    else if (label.toLowerCase().includes(wanted)) found.push([index, label]);
  }
  if (!labels.length && /^\d+$/.test(wanted)) found.push([Number(wanted), `class ${wanted}`]);
  return found;
}

function showFound(labels, text, choose) {
  const found = findClasses(labels, text);
  const rows = found.slice(0, MOST_FOUND).map(([index, label]) => {
    const button = element("button", { type: "button" }, element("bdi", { textContent: label }), ` (${index})`);
    button.addEventListener("click", () => choose(index));
    return element("li", {}, button);
  });
  const rest = found.length - rows.length;
  const note = text.trim() && !found.length ? "no class has this in its label" : rest > 0 ? `and ${rest} more` : "";
  $("found").replaceChildren(...rows, ...(note ? [element("li", { className: "quiet", textContent: note })] : []));
}
