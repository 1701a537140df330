/**
 * A prompt with several choices whose own log-probabilities are wanted (`echo` with `logprobs`) is scored once: the
 * first choice has the model compute them, the others are given what it was told and ask for their tokens alone. Those
 * go on from what the model has read for the first, as the choices of any prompt do, and wait until then, so that they
 * take no place meanwhile. A row does not depend on how the rows before it were computed: each choice gets the bits
 * that it would get from a request of its own.
 */
import type { GenerateEvent, GenerateRequest } from "../../engine/infer/servedModel.ts";
import { CodedError } from "../../ops/errors.ts";

type Scores = Extract<GenerateEvent, { type: "prompt" }>;

/** Asks the model for one choice of a request, which has a number. */
export type Ask = (request: GenerateRequest, index: number) => AsyncIterable<GenerateEvent>;

/**
 * @param maxLength the longest context, in tokens
 * @returns asks for the choices of one prompt, the first of which must be read for the others to go on
 */
export function scoredOnce(ask: Ask, maxLength: number): Ask {
  let scores: Promise<Scores> | null = null;
  return (request, index) => {
    if (!request.echo || request.logprobs === null) return ask(request, index);
    if (scores !== null) return withScores(scores, unscored(request, maxLength), (rest) => ask(rest, index));
    const told = Promise.withResolvers<Scores>();
    scores = told.promise;
    // With one choice nobody else waits for them.
    scores.catch(() => undefined);
    return telling(ask(request, index), told);
  };
}

/** The events of the first choice; what they say of the prompt is told to the others. */
async function* telling(
  events: AsyncIterable<GenerateEvent>,
  told: PromiseWithResolvers<Scores>,
): AsyncGenerator<GenerateEvent> {
  try {
    for await (const event of events) {
      if (event.type === "prompt") told.resolve(event);
      yield event;
    }
  } catch (error) {
    told.reject(error);
    throw error;
  } finally {
    told.reject(new CodedError("cancelled", "the choice that reads the prompt for the others was given up"));
  }
}

async function* withScores(
  scores: Promise<Scores>,
  request: GenerateRequest,
  ask: (request: GenerateRequest) => AsyncIterable<GenerateEvent>,
): AsyncGenerator<GenerateEvent> {
  yield await scores;
  // Where nothing is to follow, nothing is left to ask.
  if (request.maxTokens > 0) yield* ask(request);
  else yield { type: "end", reason: "length", stopToken: null };
}

/** Where a prompt is one token longer than the context, what follows it is told from its last `maxLength`. */
function unscored(request: GenerateRequest, maxLength: number): GenerateRequest {
  return { ...request, echo: false, promptIds: request.promptIds.slice(-maxLength) };
}
