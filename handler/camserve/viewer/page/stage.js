// The photo with its map, the legend, and the picture that is saved. Lengths are pixels of the canvas.
const STAGE_SIDE = 1280; // most pixels of the shown photo's longest side
const LEAST_SIDE = 640; // smaller photos are enlarged

// Return by what to scale a photo, so that its longest side is LEAST_SIDE to `side` pixels.
function scaleTo(side, { width, height }) {
  const longest = Math.max(width, height);
  return clamp(1, Math.min(side, LEAST_SIDE) / longest, side / longest);
}

// Return the photo as a canvas of at most `side` pixels; null where the browser cannot decode it, or turns it wrongly.
async function decodePhoto(file, side) {
  try {
    if (isTurned(new DataView(await file.arrayBuffer()))) return null;
    const bitmap = await createImageBitmap(file);
    const scale = scaleTo(side, bitmap);
    const canvas = element("canvas", {
      width: Math.max(1, Math.round(bitmap.width * scale)),
      height: Math.max(1, Math.round(bitmap.height * scale)),
    });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    return canvas;
  } catch {
    return null;
  }
}

// Return an empty canvas in the shape of a photo that this browser cannot show.
function blankPhoto(input, side) {
  const scale = scaleTo(side, input);
  const [width, height] = [input.width, input.height].map((length) => Math.ceil(length * scale));
  return element("canvas", { width, height, isBlank: true });
}

// Return the photo if its shape is what the server saw, else an empty one: a browser may turn it otherwise.
function fitPhoto(photo, input, side) {
  if (!photo) return blankPhoto(input, side);
  const difference = Math.abs(photo.width * input.height - photo.height * input.width);
  return difference <= 2 * (input.width + input.height) ? photo : blankPhoto(input, side);
}

function scaleRegion(input, canvas) {
  const [x, y] = [canvas.width / input.width, canvas.height / input.height];
  return [input.region[0] * x, input.region[1] * y, input.region[2] * x, input.region[3] * y];
}

function drawPhoto(context, photo, grey) {
  context.fillStyle = "#808080";
  context.fillRect(0, 0, photo.width, photo.height);
  context.filter = grey ? "grayscale(1)" : "none";
  context.drawImage(photo, 0, 0);
  context.filter = "none";
}

// Darken what the model never saw.
function darkenOutside(context, region, canvas) {
  context.fillStyle = "rgb(0 0 0 / 50%)";
  context.beginPath();
  context.rect(0, 0, canvas.width, canvas.height);
  context.rect(region[0], region[1], region[2] - region[0], region[3] - region[1]);
  context.fill("evenodd");
}

// Draw {map, table, opacity} over the part of the canvas between two shares of its width.
function drawMap(context, layer, input, canvas, from = 0, to = 1) {
  if (!layer?.map.grid) return;
  const region = scaleRegion(input, canvas);
  context.save();
  context.beginPath();
  context.rect(from * canvas.width, 0, (to - from) * canvas.width, canvas.height);
  context.clip();
  context.imageSmoothingQuality = "high";
  const coloured = colourField(fieldOf(layer.map, input.region), layer.table, layer.opacity);
  context.drawImage(coloured, region[0], region[1], region[2] - region[0], region[3] - region[1]);
  context.restore();
}

// Draw photo, left and right map; `split` is the share of the width at which the right one begins.
function drawStage(canvas, photo, input, left, right, split, grey) {
  [canvas.width, canvas.height] = [photo.width, photo.height];
  const context = canvas.getContext("2d");
  drawPhoto(context, photo, grey);
  if (!input) return;
  drawMap(context, left, input, canvas, 0, right ? split : 1);
  if (right) drawMap(context, right, input, canvas, split, 1);
  darkenOutside(context, scaleRegion(input, canvas), canvas);
}

// Draw a layer's colours, from its lowest value to 1, as they lie on a mid-grey photo.
function drawLegend(context, layer, left, top, width, height) {
  const lowest = layer.map.evidence === "signed" ? -1 : 0;
  const values = Float32Array.from({ length: width }, (_, x) => lowest + (x / (width - 1)) * (1 - lowest));
  context.fillStyle = "#808080";
  context.fillRect(left, top, width, height);
  context.drawImage(colourField({ width, height: 1, values }, layer.table, layer.opacity), left, top, width, height);
}

// Return what stands at the ends and the middle of the legend.
function legendTicks(map) {
  const values = map.evidence === "signed" ? [-map.scale, 0, map.scale] : [0, map.scale / 2, map.scale];
  return values.map(writeNumber);
}

// Return the share of the canvas at which the pointer is.
function pointerShare(event, canvas) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

// Return the map's value there, -1 to 1; undefined outside what the model saw.
function valueUnder([across, down], map, input) {
  const [left, top, right, bottom] = input.region;
  const x = (across * input.width - left) / (right - left);
  const y = (down * input.height - top) / (bottom - top);
  if (!map.grid || x < 0 || x >= 1 || y < 0 || y >= 1) return undefined;
  const field = fieldOf(map, input.region);
  return field.values[Math.floor(y * field.height) * field.width + Math.floor(x * field.width)];
}
