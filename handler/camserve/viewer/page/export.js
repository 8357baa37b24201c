// What a reader takes along: the picture, the JSON, and the lines that repeat the request.
const SAVED_SIDE = 2048; // most pixels of a saved photo's longest side
const PLAIN_NAME = /^[\p{L}\p{N}_][\p{L}\p{N} ._-]*$/u; // safe in every shell and string

function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Break a text into lines that fit; a word that is too long is broken too.
function breakLines(context, text, width) {
  const lines = [""];
  for (const word of text.split(/\s+/).flatMap((whole) => [...whole.matchAll(/.{1,24}/gsu)].map(([part]) => part))) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (context.measureText(longer).width <= width) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}

// Write the caption and draw the legend below the photo; return how high that is, also without `draw`.
function writeBelow(context, { layer, side }, top, width, draw) {
  const size = clamp(Math.round(width / 40), 13, 40);
  const pad = size;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "top";
  const lines = breakLines(context, `${side}${writeCaption(layer.map)} · in ${unitOf(layer.map)}`, width - 2 * pad);
  let y = top + pad;
  if (draw) {
    context.fillStyle = "#1c1c1a";
    lines.forEach((line, at) => context.fillText(line, pad, y + at * size * 1.35));
  }
  y += lines.length * size * 1.35 + pad / 2;
  if (draw) drawSavedLegend(context, layer, pad, Math.round(y), width - 2 * pad, size);
  return Math.ceil(y + 2.6 * size + pad / 2 - top);
}

function drawSavedLegend(context, layer, left, top, width, size) {
  if (layer.map.status !== "ok" || !layer.map.grid) {
    context.fillText(STATUS[layer.map.status] ?? "no map", left, top);
    return;
  }
  drawLegend(context, layer, left, top, Math.round(width), size);
  context.font = `${Math.round(size * 0.85)}px system-ui, sans-serif`;
  context.fillStyle = "#1c1c1a";
  legendTicks(layer.map).forEach((text, at) => {
    context.textAlign = ["left", "center", "right"][at];
    context.fillText(text, left + (width * at) / 2, top + 1.3 * size);
  });
  context.textAlign = "left";
}

function drawDivider(canvas, split) {
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(Math.round(split * canvas.width) - 1, 0, 2, canvas.height);
}

// Return a PNG of the photo with its map, or both maps, and below it what they are.
async function drawSaved(file, input, left, right, split, grey) {
  const photo = fitPhoto(await decodePhoto(file, SAVED_SIDE), input, SAVED_SIDE);
  const canvas = element("canvas");
  drawStage(canvas, photo, input, left, right, split, grey);
  if (right) drawDivider(canvas, split);
  const parts = right
    ? [{ layer: left, side: "Left: " }, { layer: right, side: "Right: " }]
    : [{ layer: left, side: "" }];
  const width = Math.max(canvas.width, 320);
  const whole = element("canvas", { width, height: canvas.height });
  const context = whole.getContext("2d");
  const heights = parts.map((part) => writeBelow(context, part, 0, width, false));
  whole.height = canvas.height + heights.reduce((sum, height) => sum + height, 0);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, whole.height);
  context.drawImage(canvas, 0, 0);
  parts.reduce((top, part, at) => {
    writeBelow(context, part, top, width, true);
    return top + heights[at];
  }, canvas.height);
  return new Promise((done) => whole.toBlob(done, "image/png"));
}

const plainName = (file) => (PLAIN_NAME.test(file.name) ? file.name : "photo.jpg");
const shellQuote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const address = () => location.origin + location.pathname;

function writeCurl(file, options, hasToken) {
  return [
    `curl ${shellQuote(address())}`,
    ...(hasToken ? ['-H "Authorization: Bearer $TOKEN"'] : []),
    `-F ${shellQuote(`data=@${plainName(file)}`)}`,
    ...Object.entries(options).map(([name, value]) => `--form-string ${shellQuote(`${name}=${value}`)}`),
  ].join(" \\\n  ");
}

function writePython(file, options, hasToken) {
  const quote = JSON.stringify;
  return [
    "import httpx",
    "",
    "answer = httpx.post(",
    `    ${quote(address())},`,
    ...(hasToken ? ['    headers={"Authorization": f"Bearer {token}"},'] : []),
    `    files={"data": open(${quote(plainName(file))}, "rb")},`,
    "    data={",
    ...Object.entries(options).map(([name, value]) => `        ${quote(name)}: ${quote(value)},`),
    "    },",
    "    timeout=60,",
    ")",
    "answer.raise_for_status()",
    'print(answer.json()["explanations"][0])',
  ].join("\n");
}

const WRITERS = { "show-curl": writeCurl, "show-python": writePython };
const isExpanded = (id) => $(id).getAttribute("aria-expanded") === "true";

// Write the shown command anew: it is about the map that is shown.
function keepCommand() {
  const shown = Object.keys(WRITERS).find(isExpanded);
  $("command").hidden = !shown;
  $("command").textContent = shown ? WRITERS[shown](...currentExport()) : "";
}

// Show a command, or hide it; copy it where the browser lets a page copy.
async function showCommand(wanted) {
  for (const id of Object.keys(WRITERS)) $(id).setAttribute("aria-expanded", String(id === wanted && !isExpanded(id)));
  keepCommand();
  if (!isExpanded(wanted)) return;
  try {
    await navigator.clipboard.writeText($("command").textContent);
    announce("copied");
  } catch {
    announce("shown below the buttons");
  }
}
