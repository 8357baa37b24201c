// The page's elements. Text of an answer becomes text nodes and properties, never markup.
const $ = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Fill a select with [value, text] pairs, unless it holds them already, and choose one.
function setChoices(select, pairs, chosen) {
  const key = JSON.stringify(pairs);
  if (select.dataset.key !== key) {
    select.replaceChildren(...pairs.map(([value, text]) => element("option", { value, textContent: text })));
    select.dataset.key = key;
  }
  select.value = chosen;
}

function announce(sentence) {
  $("spoken").textContent = sentence;
}

// Keep the direction of a label's own script from reordering the words around it.
const isolate = (text) => `\u2068${text}\u2069`;

function writePercent(share) {
  const percent = share * 100;
  return percent > 0 && percent < 0.1 ? "< 0.1 %" : `${percent.toFixed(1)} %`;
}

const writeNumber = (value) => String(Number(value.toPrecision(3))).replace("-", "\u2212");

// Return a prediction's probability, or its value and unit.
function writeMeaning(prediction) {
  if ("value" in prediction) return `${writeNumber(prediction.value)} ${prediction.unit ?? ""}`.trim();
  return writePercent(prediction.probability);
}
