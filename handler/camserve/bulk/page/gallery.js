"use strict";
const byId = (id) => document.getElementById(id);
const cards = [...byId("cards").children];
const number = (text, otherwise) => (text === "" ? otherwise : Number(text));
const keys = {
  order: (card) => cards.indexOf(card),
  probability: (card) => number(card.dataset.probability, NaN),
  strength: (card) => number(card.dataset.strength, NaN),
  warnings: (card) => card.dataset.warnings.split(" ").filter(Boolean).length,
  label: (card) => card.dataset.label,
  path: (card) => card.dataset.path,
};

// Order two keys; what a card does not have comes last.
function compare(one, other, sign) {
  if (typeof one === "string") return sign * one.localeCompare(other);
  if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other);
  return sign * (one - other);
}

function sortCards() {
  const [name, direction] = byId("sort").value.split("-");
  const sign = direction === "down" ? -1 : 1;
  const sorted = cards.map((card, place) => [keys[name](card), place, card]);
  sorted.sort((one, other) => compare(one[0], other[0], sign) || one[1] - other[1]);
  byId("cards").append(...sorted.map(([, , card]) => card));
}

function fits(card) {
  const { label, probability, warnings, path } = card.dataset;
  const [wanted, warning] = [byId("label").value, byId("warning").value];
  const [low, high] = [number(byId("from").value, 0), number(byId("to").value, 1)];
  const isBounded = byId("from").value !== "" || byId("to").value !== "";
  if (wanted && label !== wanted) return false;
  if (isBounded && (probability === "" || Number(probability) < low || Number(probability) > high)) return false;
  if (warning === "none" ? warnings : warning && !warnings.split(" ").includes(warning)) return false;
  return path.toLowerCase().includes(byId("path").value.toLowerCase());
}

function filterCards() {
  for (const card of cards) card.hidden = !fits(card);
  const shown = cards.filter((card) => !card.hidden).length;
  byId("count").textContent = `${shown} of ${cards.length}`;
}

function enlarge(card) {
  byId("shown").src = card.querySelector("img").src;
  byId("said").replaceChildren(card.querySelector("figcaption").cloneNode(true));
  byId("large").showModal();
}

byId("sort").addEventListener("change", sortCards);
byId("filters").addEventListener("input", filterCards);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("close").addEventListener("click", () => byId("large").close());
for (const card of cards) card.querySelector("button")?.addEventListener("click", () => enlarge(card));
