/**
 * OpenAI-compatible inference over the registered checkpoints: models, completions and chat. Handlers only; how an
 * answer is made is told in the files beside this one (`inferenceJob.ts` first).
 */
import { createStopTokens } from "../../engine/serving/stopTokens.ts";
import { createTokenizers } from "../../engine/serving/tokenizers.ts";
import type { Tokenizers } from "../../engine/serving/tokenizers.ts";
import type { ModelPool } from "../../engine/serving/types.ts";
import type { Store } from "../../engine/store/types.ts";
import type { Tokenizer } from "../../engine/tokenizer/tokenizer.ts";
import { checkVocabulary } from "../../engine/tokenizer/tokenizer.ts";
import type { Handler, HandlersOf, Schemas } from "../handlers.ts";
import { chatChunks, renderConversation, wholeChat } from "./inferenceChat.ts";
import { completionChunks, wholeCompletion } from "./inferenceCompletion.ts";
import type { InferenceJob } from "./inferenceJob.ts";
import { choiceDeltas } from "./inferenceJob.ts";
import type { FindModel, InferenceModel } from "./inferenceModel.ts";
import { createFindModel, presentModel, requireTokenizer } from "./inferenceModel.ts";
import { chatPrompt, readPrompts, wrong } from "./inferencePrompt.ts";
import { streamChunks } from "./inferenceStream.ts";
import { createTokenizerHandlers } from "./inferenceTokenizer.ts";
import type { TokenizerOperations } from "./inferenceTokenizer.ts";

export interface InferenceDeps {
  readonly store: Store;
  readonly pool: ModelPool;
}

type InferenceOperations =
  "listModels" | "getModel" | "createCompletion" | "createChatCompletion" | TokenizerOperations;

export type InferenceHandlers = HandlersOf<InferenceOperations>;

/** Choices of one request, at most. */
const maxChoices = 1024;
/** Models of a page, unless fewer are asked for, and what the store is asked for at a time. */
const maxModels = 1000;
const maxRows = 100;

/** @returns the handlers; `tokenizers` is made here unless given, and needs no closing. */
export function createInferenceHandlers(
  deps: InferenceDeps,
  tokenizers: Tokenizers = createTokenizers(),
): InferenceHandlers {
  const { store } = deps;
  const findModel = createFindModel(store);
  const parts = { ...deps, findModel, tokenizers, stopTokens: createStopTokens() };
  return {
    async listModels({ query }) {
      const { limit, after } = query;
      const { data, next } = await modelsOf(store, limit ?? maxModels, after);
      return { status: 200, body: { object: "list", data, has_more: next !== null, next } };
    },
    getModel: async ({ path }) => ({ status: 200, body: presentModel(await store.checkpoints.get(path.model)) }),
    createCompletion: completionHandler(parts),
    createChatCompletion: chatHandler(parts),
    ...createTokenizerHandlers(findModel, tokenizers),
  };
}

async function modelsOf(
  store: Store,
  limit: number,
  after?: string,
): Promise<{ data: Schemas["Model"][]; next: string | null }> {
  const data: Schemas["Model"][] = [];
  for (let next = after; ;) {
    const rows = Math.min(maxRows, limit - data.length);
    const page = await store.checkpoints.list({ limit: rows, ...(next === undefined ? {} : { after: next }) });
    data.push(...page.rows.map(presentModel));
    if (page.next === null || data.length >= limit) return { data, next: page.next };
    next = page.next;
  }
}

interface Parts extends InferenceDeps {
  readonly findModel: FindModel;
  readonly tokenizers: Tokenizers;
  readonly stopTokens: ReturnType<typeof createStopTokens>;
}

function completionHandler(parts: Parts): Handler<"createCompletion"> {
  const { findModel, tokenizers } = parts;
  return async ({ body, signal }) => {
    checkStreamOptions(body);
    const model = await findModel(body.model);
    const prompts = await readPrompts(body.prompt, body.echo && body.logprobs !== null, model, tokenizers);
    if (prompts.length * body.n > maxChoices) {
      throw wrong("/n", `times ${prompts.length} prompts is ${prompts.length * body.n} choices; at most ${maxChoices}`);
    }
    const stops = stopsOf(body.stop);
    if (stops.length > 0 && model.tokenizer === null) {
      throw wrong("/stop", `cannot be honoured: ${model.row.id} has no tokenizer, so its text is empty`);
    }
    const tokenizer = model.tokenizer === null ? null : await loadTokenizer(model, tokenizers);
    const left = new AbortController();
    const job: InferenceJob = {
      ...{ model, tokenizer, prompts, n: body.n, seed: body.seed, stops, pool: parts.pool },
      stopIds: await parts.stopTokens.of(model.checkpoint, tokenizer?.eosTokenId ?? null),
      settings: {
        ...{ maxTokens: body.max_tokens, temperature: body.temperature, topP: body.top_p },
        ...{ logprobs: body.logprobs, echo: body.echo },
      },
      streams: body.stream,
      signal: AbortSignal.any([signal, left.signal]),
    };
    const withUsage = body.stream_options?.include_usage === true;
    const presentation = { model: body.model, withLogprobs: body.logprobs !== null, withUsage };
    const deltas = choiceDeltas(job);
    if (!body.stream) return { status: 200, body: await wholeCompletion(job, presentation, deltas) };
    return streamChunks(completionChunks(job, presentation, deltas), left, signal);
  };
}

function chatHandler(parts: Parts): Handler<"createChatCompletion"> {
  const { findModel, tokenizers } = parts;
  return async ({ body, signal }) => {
    checkStreamOptions(body);
    const model = await findModel(body.model);
    const source = requireTokenizer(model);
    const tokenizer = await loadTokenizer(model, tokenizers);
    const options = { id: model.row.id, tokenizer, addGenerationPrompt: true };
    const text = await renderConversation(body.messages, options, tokenizers);
    // The template has written the special tokens.
    const [ids = []] = await tokenizers.encode(source, [text], false);
    const prompt = chatPrompt(ids, model);
    const left = new AbortController();
    const job: InferenceJob = {
      ...{
        model,
        tokenizer,
        prompts: [prompt],
        n: body.n,
        seed: body.seed,
        stops: stopsOf(body.stop),
        pool: parts.pool,
      },
      stopIds: await parts.stopTokens.of(model.checkpoint, tokenizer.eosTokenId),
      settings: {
        ...{ maxTokens: answerTokens(body, model), temperature: body.temperature, topP: body.top_p },
        ...{ logprobs: chatLogprobs(body), echo: false },
      },
      streams: body.stream,
      signal: AbortSignal.any([signal, left.signal]),
    };
    const withUsage = body.stream_options?.include_usage === true;
    const presentation = { model: body.model, withLogprobs: body.logprobs, withUsage };
    const deltas = choiceDeltas(job);
    if (!body.stream) return { status: 200, body: await wholeChat(job, presentation, deltas) };
    return streamChunks(chatChunks(job, presentation, deltas), left, signal);
  };
}

/** @throws invalid_request for what could not be honoured */
function checkStreamOptions(body: Pick<Schemas["CompletionRequest"], "stream" | "stream_options">): void {
  if (body.stream || (body.stream_options ?? null) === null) return;
  throw wrong("/stream_options", "needs stream to be true");
}

/** Two names for one thing: the newer one goes first, and both are taken only where they agree. */
function answerTokens(body: Schemas["ChatCompletionRequest"], model: InferenceModel): number {
  const { max_completion_tokens: wanted, max_tokens: older } = body;
  if (wanted !== null && older !== null && wanted !== older) {
    throw wrong("/max_tokens", `is ${older} and max_completion_tokens ${wanted}; give one of them`);
  }
  return wanted ?? older ?? model.checkpoint.manifest.config.maxPositionEmbeddings;
}

function chatLogprobs({ logprobs, top_logprobs: top }: Schemas["ChatCompletionRequest"]): number | null {
  if (!logprobs && top !== null) throw wrong("/top_logprobs", "needs logprobs to be true");
  return logprobs ? (top ?? 0) : null;
}

function stopsOf(stop: Schemas["CompletionRequest"]["stop"]): readonly string[] {
  return typeof stop === "string" ? [stop] : (stop ?? []);
}

async function loadTokenizer(model: InferenceModel, tokenizers: Tokenizers): Promise<Tokenizer> {
  const tokenizer = await tokenizers.load(requireTokenizer(model));
  checkVocabulary(tokenizer, model.checkpoint.manifest.config.vocabSize);
  return tokenizer;
}
