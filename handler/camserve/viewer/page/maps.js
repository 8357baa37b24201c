// From a grid to colours: enlarged first, coloured then.
const FIELD_SIDE = 384; // pixels of an enlarged map's longest side
const LEVELS = 256;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function hexColours(anchors) {
  const numbers = anchors.match(/../g).map((digits) => parseInt(digits, 16));
  return Array.from({ length: numbers.length / 3 }, (_, at) => numbers.slice(3 * at, 3 * at + 3));
}

// Return {lowest, colours}: RGB of LEVELS values from the lowest to 1.
function colourTable({ anchors, lowest }) {
  const given = hexColours(anchors);
  const colours = new Uint8ClampedArray(LEVELS * 3);
  for (let level = 0; level < LEVELS; level++) {
    const at = (level / (LEVELS - 1)) * (given.length - 1);
    const low = Math.min(Math.floor(at), given.length - 2);
    for (let channel = 0; channel < 3; channel++) {
      colours[3 * level + channel] = given[low][channel] + (at - low) * (given[low + 1][channel] - given[low][channel]);
    }
  }
  return { lowest, colours };
}

// Catmull-Rom: passes through the grid's values, and has no creases between them.
function cubicWeights(t) {
  return [
    (((2 - t) * t - 1) * t) / 2,
    ((3 * t - 5) * t * t) / 2 + 1,
    (((4 - 3 * t) * t + 1) * t) / 2,
    ((t - 1) * t * t) / 2,
  ];
}

// Return for each of `size` places the four neighbours among `length` cells, and their weights.
function neighbours(length, size) {
  return Array.from({ length: size }, (_, place) => {
    const at = ((place + 0.5) * length) / size - 0.5;
    const base = Math.floor(at);
    const cells = [-1, 0, 1, 2].map((step) => clamp(base + step, 0, length - 1));
    return { cells, weights: cubicWeights(at - base) };
  });
}

const weigh = (values, { cells, weights }) => cells.reduce((sum, cell, tap) => sum + values[cell] * weights[tap], 0);

// Return {width, height, values}: the grid enlarged, within its own range.
function enlarge(grid, width, height, lowest) {
  const across = neighbours(grid[0].length, width);
  const rows = grid.map((row) => across.map((place) => weigh(row, place)));
  const values = new Float32Array(width * height);
  neighbours(grid.length, height).forEach(({ cells, weights }, y) => {
    const [a, b, c, d] = cells.map((cell) => rows[cell]);
    for (let x = 0; x < width; x++) {
      const value = a[x] * weights[0] + b[x] * weights[1] + c[x] * weights[2] + d[x] * weights[3];
      values[y * width + x] = clamp(value, lowest, 1);
    }
  });
  return { width, height, values };
}

// Return the field of a map over `region` of the photo, made once.
function fieldOf(map, region) {
  const [width, height] = [region[2] - region[0], region[3] - region[1]];
  const scale = FIELD_SIDE / Math.max(width, height);
  map.field ??= enlarge(
    map.grid,
    Math.max(1, Math.round(width * scale)),
    Math.max(1, Math.round(height * scale)),
    map.evidence === "signed" ? -1 : 0,
  );
  return map.field;
}

// Weak values are drawn faint: opacity grows with the value.
const fade = (value) => Math.abs(value) ** 0.7;

function colourValue(value, table, opacity, pixels, at) {
  const level = Math.round(((value - table.lowest) / (1 - table.lowest)) * (LEVELS - 1));
  for (let channel = 0; channel < 3; channel++) pixels[at + channel] = table.colours[3 * level + channel];
  pixels[at + 3] = 255 * opacity * fade(value);
}

// Return a canvas of the field's colours.
function colourField(field, table, opacity) {
  const image = new ImageData(field.width, field.height);
  field.values.forEach((value, at) => colourValue(value, table, opacity, image.data, 4 * at));
  const canvas = element("canvas", { width: field.width, height: field.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

const VERTICAL = ["top", "middle", "bottom"];
const HORIZONTAL = ["left", "centre", "right"];

// Say where on the photo the field is largest.
function strongestPlace(field, region, input) {
  let best = 0;
  field.values.forEach((value, at) => { if (Math.abs(value) > Math.abs(field.values[best])) best = at; });
  const x = region[0] + (((best % field.width) + 0.5) / field.width) * (region[2] - region[0]);
  const y = region[1] + ((Math.floor(best / field.width) + 0.5) / field.height) * (region[3] - region[1]);
  const third = (share) => clamp(Math.floor(share * 3), 0, 2);
  const [row, column] = [third(y / input.height), third(x / input.width)];
  return row === 1 && column === 1 ? "at the centre" : `at the ${VERTICAL[row]} ${HORIZONTAL[column]}`;
}
