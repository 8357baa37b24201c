// What stands beside the picture: caption, legend, strength, warnings, channels.

const OWN_UNIT = "the method's own unit";

// Return the channel whose activation a map shows; undefined: it shows evidence.
const activeChannel = (map) => map.of_channels?.asked.match(/^activation:(.*)/)?.[1];

// Return the unit of a map's values.
function unitOf(map) {
  if (activeChannel(map)) return "units of activation";
  if ("value" in map.target) return map.target.unit ?? "the value's unit";
  if (typeof map.balance?.share_of_score !== "number") return OWN_UNIT;
  return map.contrast ? "points of score difference" : "points of score";
}

// Return a value of a map with its unit.
function writeValue(value, map) {
  const unit = unitOf(map);
  return `${writeNumber(value)} ${unit === OWN_UNIT ? `in ${unit}` : unit}`;
}

// Return of which channels a map is, and what share of the evidence these carry; "": of all.
function writeChannels({ of_channels: chosen }) {
  if (!chosen) return "";
  const named = chosen.asked.length > 24 ? chosen.count : chosen.asked;
  return `channels ${named}${chosen.share === null ? "" : ` (${writePercent(chosen.share)} of the evidence)`}`;
}

function writeQuestion(map) {
  if (activeChannel(map)) return `Where channel ${activeChannel(map)} is active, whatever the class`;
  const [label, rival] = [isolate(map.target.label), map.contrast && isolate(map.contrast.label)];
  const meaning = `(${writeMeaning(map.target)})`;
  if (rival) return `Why ${label} ${meaning} rather than ${rival}: red speaks for ${label}, blue for ${rival}`;
  if (map.evidence === "against") return `What speaks against ${label} ${meaning}`;
  return `Why ${label} ${meaning}`;
}

// Return what made a map of evidence, its method and channels; []: it shows an activation.
const makingOf = (map) => (activeChannel(map) ? [] : [map.method, writeChannels(map)].filter(Boolean));

function writeCaption(map) {
  return [writeQuestion(map), ...makingOf(map), isolate(map.layer)].join(" · ");
}

const STATUS = {
  blank: "There is no evidence of this kind: the map is empty.",
  skipped: "The server left this map out.",
  failed: "This map could not be computed.",
};

// Say how strong a map is, `strength` 0 to 1, beside predicted classes or the maps of its photo; null: unknown.
function writeStrength(map, strength) {
  if (map.status !== "ok") return STATUS[map.status] ?? "";
  if (!map.grid) return "The answer was too long: its map was left out.";
  const peak = writeValue(map.scale, map);
  if (activeChannel(map)) return `Its largest value is ${peak}.`;
  if (strength === null) return `Its largest value is ${peak}. Look at other classes to see whether that is much.`;
  const word = strength > 2 / 3 ? "Strong" : strength > 1 / 3 ? "Moderate" : "Weak";
  const percent = `${Math.round(strength * 100)} %`;
  const ofMaps = strength < 1 ? `${percent} of the strongest map of this photo` : "the strongest map of this photo";
  const share = typeof map.strength === "number" ? `${percent} of what a predicted class has` : ofMaps;
  return `${word} evidence: up to ${peak}, ${share}.`;
}

function showStrength(map, strength) {
  $("strength").textContent = map ? writeStrength(map, strength) : "";
  $("strength-bar").hidden = map?.status !== "ok" || strength === null;
  $("strength-bar").value = strength ?? 0;
}

// Return what a map is of: a channel's activation is no reason for a class.
function subjectOf(map) {
  const channel = activeChannel(map);
  return channel ? `activation of channel ${channel}` : isolate(map.target.label);
}

function writeSpoken(map, input) {
  if (map.status !== "ok" || !map.grid) return `${subjectOf(map)}: ${STATUS[map.status] ?? "no map"}`;
  return `${subjectOf(map)}: strongest ${strongestPlace(fieldOf(map, input.region), input.region, input)}`;
}

// Say what the map's value under the pointer is; undefined: in which unit values are.
function showValue(value, map) {
  const text = value === undefined ? `in ${unitOf(map)}` : `here: ${writeValue(value * map.scale, map)}`;
  $("under-pointer").textContent = text;
}

function showLegend(layer) {
  $("scale-row").hidden = !layer?.map.grid || layer.map.status !== "ok";
  if ($("scale-row").hidden) return;
  const canvas = $("legend");
  drawLegend(canvas.getContext("2d"), layer, 0, 0, canvas.width, canvas.height);
  showValue(undefined, layer.map);
  $("ticks").replaceChildren(...legendTicks(layer.map).map((text) => element("span", { textContent: text })));
}

function showWarnings(warnings, map) {
  const codes = new Set();
  const once = warnings.filter(({ code }) => !codes.has(code) && codes.add(code));
  $("warnings").replaceChildren(...once.map((warning) => writeWarning(warning, map)));
}

function channelButton(channel, choose) {
  const title = `a map of channel ${channel} alone`;
  const button = element("button", { type: "button", textContent: String(channel), title });
  button.addEventListener("click", () => choose(String(channel)));
  return button;
}

function showChannels(map, choose) {
  const rows = map?.channels ?? [];
  $("channels-part").hidden = rows.length === 0;
  $("channels").replaceChildren(
    ...rows.map(({ channel, contribution, share }) =>
      element(
        "tr",
        {},
        ...[channelButton(channel, choose), writeNumber(contribution), writePercent(share)].map((shown) =>
          element("td", {}, shown),
        ),
      ),
    ),
  );
}
