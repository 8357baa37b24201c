// Photos that a browser may show otherwise than the server saw them: Chromium does not read the orientation of a WebP.
const ORIENTATION_TAG = 0x0112;

const readMark = (view, at) => String.fromCharCode(...[0, 1, 2, 3].map((step) => view.getUint8(at + step)));

// Return where the EXIF chunk of a WebP begins; -1: it has none, or is no WebP. RangeError: it is truncated.
function findExif(view) {
  if (view.byteLength < 16 || readMark(view, 0) !== "RIFF" || readMark(view, 8) !== "WEBP") return -1;
  let at = 12;
  while (at + 8 <= view.byteLength && readMark(view, at) !== "EXIF") {
    const size = view.getUint32(at + 4, true);
    at += 8 + size + (size % 2);
  }
  return at + 8 <= view.byteLength ? at + 8 : -1;
}

// Return the orientation that TIFF fields name, 1 where they name none.
function readOrientation(view, start) {
  const isLittle = readMark(view, start).startsWith("II");
  const directory = start + view.getUint32(start + 4, isLittle);
  for (let entry = 0; entry < view.getUint16(directory, isLittle); entry++) {
    const at = directory + 2 + 12 * entry;
    if (view.getUint16(at, isLittle) === ORIENTATION_TAG) return view.getUint16(at + 8, isLittle);
  }
  return 1;
}

// Whether the file is a WebP that is not stored upright.
function isTurned(view) {
  try {
    const exif = findExif(view);
    if (exif < 0) return false;
    return readOrientation(view, exif + (readMark(view, exif) === "Exif" ? 6 : 0)) !== 1;
  } catch {
    return true; // nobody knows how it lies
  }
}
