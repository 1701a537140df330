/** The tokenizer routes that vLLM has and lm-evaluation-harness asks for. */
import type { Tokenizers } from "../../engine/serving/tokenizers.ts";
import type { HandlersOf, Schemas } from "../handlers.ts";
import { renderConversation } from "./inferenceChat.ts";
import type { FindModel, InferenceModel } from "./inferenceModel.ts";
import { requireTokenizer } from "./inferenceModel.ts";
import { checkLength, wrong } from "./inferencePrompt.ts";

export type TokenizerOperations = "tokenize" | "detokenize" | "getTokenizerInfo";

export function createTokenizerHandlers(findModel: FindModel, tokenizers: Tokenizers): HandlersOf<TokenizerOperations> {
  return {
    async tokenize({ body }) {
      const model = await findModel(body.model ?? null);
      const source = requireTokenizer(model);
      const [text, addSpecialTokens] = await textToTokenize(body, model, tokenizers);
      const [tokens = []] = await tokenizers.encode(source, [text], addSpecialTokens);
      const max_model_len = model.checkpoint.manifest.config.maxPositionEmbeddings;
      const names = body.return_token_strs === true ? await tokenizers.load(source) : null;
      const token_strs = names && tokens.map((id) => names.tokenName(id));
      return { status: 200, body: { tokens, count: tokens.length, max_model_len, token_strs } };
    },
    async detokenize({ body }) {
      const model = await findModel(body.model ?? null);
      const source = requireTokenizer(model);
      checkTokens(body.tokens, model);
      return { status: 200, body: { prompt: await tokenizers.decode(source, body.tokens) } };
    },
    async getTokenizerInfo({ query }) {
      const model = await findModel(query.model ?? null);
      const tokenizer = await tokenizers.load(requireTokenizer(model));
      const { bosToken, eosToken, padToken, unkToken } = tokenizer.specialTokens;
      return {
        status: 200,
        body: {
          model: model.row.id,
          tokenizer_class: tokenizer.className,
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

/** @throws invalid_request for an id that no token of the model has: it stands for no text */
function checkTokens(tokens: readonly number[], { row, checkpoint }: InferenceModel): void {
  const { vocabSize } = checkpoint.manifest.config;
  const bad = tokens.findIndex((id) => id >= vocabSize);
  if (bad < 0) return;
  throw wrong(`/tokens/${bad}`, `is id ${tokens[bad]}; ids of ${row.id} are 0 to ${vocabSize - 1}`);
}

/** The text, and whether special tokens are added: by default to a prompt, but not to what a template has written. */
async function textToTokenize(
  body: Schemas["TokenizeRequest"],
  model: InferenceModel,
  tokenizers: Tokenizers,
): Promise<[string, boolean]> {
  const { prompt, messages, add_special_tokens: added } = body;
  if (prompt !== undefined && messages !== undefined) throw wrong("/messages", "come with a prompt; give one of them");
  if (prompt !== undefined) {
    checkLength([prompt]);
    return [prompt, added ?? true];
  }
  if (messages === undefined) throw wrong("/prompt", "is missing; give it or messages");
  const tokenizer = await tokenizers.load(requireTokenizer(model));
  const options = { id: model.row.id, tokenizer, addGenerationPrompt: body.add_generation_prompt };
  return [await renderConversation(messages, options, tokenizers), added ?? false];
}
