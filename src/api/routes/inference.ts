/**
 * OpenAI-compatible inference over the registered checkpoints: models, completions, and the tokenizer routes that
 * vLLM has and lm-evaluation-harness asks for. Handlers only; how a completion is made is told in the files beside
 * this one (`inferenceCompletion.ts` first).
 */
import { createTokenizers } from "../../engine/serving/tokenizers.ts";
import type { Tokenizers } from "../../engine/serving/tokenizers.ts";
import type { ModelPool } from "../../engine/serving/types.ts";
import type { Store } from "../../engine/store/types.ts";
import { checkVocabulary } from "../../engine/tokenizer/tokenizer.ts";
import type { Handler, HandlersOf } from "../handlers.ts";
import { completionChunks, completionDeltas, wholeCompletion } from "./inferenceCompletion.ts";
import type { CompletionJob } from "./inferenceCompletion.ts";
import { findModel, presentModel, requireTokenizer } from "./inferenceModel.ts";
import { checkLength, readPrompts, wrong } from "./inferencePrompt.ts";
import { streamChunks } from "./inferenceStream.ts";

export interface InferenceDeps {
  readonly store: Store;
  readonly pool: ModelPool;
}

type InferenceOperations =
  "listModels" | "getModel" | "createCompletion" | "tokenize" | "detokenize" | "getTokenizerInfo";

export type InferenceHandlers = HandlersOf<InferenceOperations>;

/** Choices of one request, at most. */
const maxChoices = 1024;

/** @returns the handlers; `tokenizers` is made here unless given, and needs no closing. */
export function createInferenceHandlers(
  deps: InferenceDeps,
  tokenizers: Tokenizers = createTokenizers(),
): InferenceHandlers {
  const { store } = deps;
  return {
    async listModels({ query }) {
      const { limit, after } = query;
      const page = await store.checkpoints.list({ limit: limit ?? 100, ...(after === undefined ? {} : { after }) });
      const data = page.rows.map(presentModel);
      return { status: 200, body: { object: "list", data, has_more: page.next !== null, next: page.next } };
    },
    getModel: async ({ path }) => ({ status: 200, body: presentModel(await store.checkpoints.get(path.model)) }),
    createCompletion: completionHandler(deps, tokenizers),
    async tokenize({ body }) {
      const model = await findModel(store, body.model ?? null);
      const source = requireTokenizer(model);
      checkLength([body.prompt]);
      const [tokens = []] = await tokenizers.encode(source, [body.prompt], body.add_special_tokens);
      const max_model_len = model.checkpoint.manifest.config.maxPositionEmbeddings;
      return { status: 200, body: { tokens, count: tokens.length, max_model_len } };
    },
    async detokenize({ body }) {
      const source = requireTokenizer(await findModel(store, body.model ?? null));
      return { status: 200, body: { prompt: await tokenizers.decode(source, body.tokens) } };
    },
    async getTokenizerInfo({ query }) {
      const model = await findModel(store, query.model ?? null);
      const tokenizer = await tokenizers.load(requireTokenizer(model));
      const { bosToken, eosToken, padToken, unkToken } = tokenizer.specialTokens;
      return {
        status: 200,
        body: {
          model: model.row.id,
          bos_token: bosToken,
          eos_token: eosToken,
          pad_token: padToken,
          unk_token: unkToken,
          chat_template: tokenizer.chatTemplate,
          vocab_size: tokenizer.vocabSize,
        },
      };
    },
  };
}

function completionHandler({ store, pool }: InferenceDeps, tokenizers: Tokenizers): Handler<"createCompletion"> {
  return async ({ body, signal }) => {
    const model = await findModel(store, body.model);
    const prompts = await readPrompts(body.prompt, body.echo && body.logprobs !== null, model, tokenizers);
    if (prompts.length * body.n > maxChoices) {
      throw wrong("/n", `times ${prompts.length} prompts is ${prompts.length * body.n} choices; at most ${maxChoices}`);
    }
    const stops = typeof body.stop === "string" ? [body.stop] : (body.stop ?? []);
    if (stops.length > 0 && model.tokenizer === null) {
      throw wrong("/stop", `cannot be honoured: ${model.row.id} has no tokenizer, so its text is empty`);
    }
    const tokenizer = model.tokenizer === null ? null : await tokenizers.load(model.tokenizer);
    if (tokenizer !== null) checkVocabulary(tokenizer, model.checkpoint.manifest.config.vocabSize);
    const left = new AbortController();
    const job: CompletionJob = {
      ...{ body, model, tokenizer, prompts, pool },
      signal: AbortSignal.any([signal, left.signal]),
    };
    const deltas = completionDeltas(job);
    if (!body.stream) return { status: 200, body: await wholeCompletion(job, deltas) };
    return streamChunks(completionChunks(job, deltas), left, signal);
  };
}
