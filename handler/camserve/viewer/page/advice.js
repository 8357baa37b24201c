// Each warning in plain words: what it means, and what to do.
const ADVICE = {
  NO_POSITIVE_EVIDENCE: ["Nothing in the photo speaks for this class.", "Ask “why not”."],
  EXPLANATION_FAILED: ["This map could not be computed. The prediction stands.",
    "Try another method. The server's log says more."],
  OUT_OF_TIME: ["The server gave this map up because its time was over. The prediction stands.",
    "Choose a cheaper method, or try again when the server is less busy."],
  NO_TIME_TO_DRAW: ["The server was too busy to draw pictures.", "Nothing is missing here: this page draws by itself."],
  FAILS_SANITY_CHECK: ["This method hardly depends on the class or on what the model has learned.",
    "Read the map as edges of the photo, not as a reason; choose gradcam for a reason."],
  SATURATED_SOFTMAX: ["The probability is as good as 100 % and says no more than that.",
    "Compare the scores of the classes. The map is of the score and is not affected."],
  FIRST_FRAME_ONLY: ["The picture is animated: the model saw its first frame alone.", "Send the frame that matters."],
  OPTION_REDUCED: ["The answer was too long, so parts of it were left out.", "Ask about fewer classes at once."],
  OUT_OF_DISTRIBUTION: ["The model is less sure of this photo than of 99 % of those that it was checked on.",
    "Doubt the answer: the photo may show something that the model does not know."],
  LOW_CONFIDENCE: ["Answers with so little probability are often wrong.", "Let a person look at the photo."],
  DEPTH_GUESSED: ["The file does not say how bright its white is, so the server guessed.",
    "Compare the photo with what you know; whoever runs the model can set the depth."],
  DOUBLE_NEGATIVE: ["Much of this map is made by two negative numbers: evidence in name only.",
    "Compare it with the method hirescam."],
  WEAK_EVIDENCE: ["There is far less evidence for this class than a predicted one has: it is hardly in the photo.",
    "Take nothing from the pattern of this map; look at the classes that were predicted."],
  PARTIAL_EVIDENCE: ["The map shows only a part of what decides the score.",
    "Do not take empty places for unimportant: what passes the model elsewhere is not on the map."],
};

// Where a map is empty that shows something else than what speaks for the class.
const NOTHING = {
  against: ["Nothing in the photo speaks against this class.", "Ask “why”."],
  signed: ["The map is zero everywhere: nothing at this layer changes the score.", "Look at another layer or method."],
};

// What is empty of chosen channels is not empty of all: the server's words say so.
function writeWarning({ code, message }, map) {
  const isBlank = code === "NO_POSITIVE_EVIDENCE";
  const known = isBlank && map.of_channels ? null : (isBlank && NOTHING[map.evidence]) || ADVICE[code];
  const [meaning, advice] = known ?? [message, ""];
  return Object.assign(writeNote([meaning, advice]), { title: message });
}

const NOT_SHOWN = ["This browser cannot show the photo as the server sees it.",
  "The map is drawn on grey. Save the photo as JPEG or PNG to see both."];

const writeNote = ([meaning, advice]) => element("li", {}, element("strong", { textContent: meaning }), advice);

const REFUSALS = {
  413: "The photo is too large for this server. Make it smaller, or save it as JPEG, and try again.",
  404: "There is no such model at this address.",
};
const TOKEN_REFUSED = "The server does not accept this token: it is wrong, or has ended.";
const UNREACHABLE = "The server does not answer.";
