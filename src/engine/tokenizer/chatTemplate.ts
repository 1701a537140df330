/**
 * A conversation as the text that a checkpoint was trained on, by its own Jinja template, with the variables that
 * transformers' `apply_chat_template` gives it. A template is a program that came with the weights: it can loop for
 * ever or fill memory, so it is rendered only where that can be ended (`serving/templateProcess.ts`).
 */
import { Template } from "@huggingface/jinja";
import { CodedError } from "../../ops/errors.ts";
import type { SpecialTokens } from "./tokenizer.ts";

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
}

export interface ChatRendering {
  /** Jinja source. */
  readonly template: string;
  readonly messages: readonly ChatMessage[];
  /** End with what opens an answer of the assistant. */
  readonly addGenerationPrompt: boolean;
  readonly specialTokens: SpecialTokens;
}

/** The rendered text, in UTF-16 units. */
export const maxRenderedLength = 4 * 1024 * 1024;

/** @throws unprocessable when the template is not valid, refuses the messages or writes too much */
export function renderChat({ template, messages, addGenerationPrompt, specialTokens }: ChatRendering): string {
  const text = attempt(() =>
    new Template(template).render({
      messages: messages.map(({ role, content }) => ({ role, content })),
      add_generation_prompt: addGenerationPrompt,
      tools: null,
      documents: null,
      // As in transformers, a token that there is none of is undefined: a template that tests for it finds nothing.
      ...present("bos_token", specialTokens.bosToken),
      ...present("eos_token", specialTokens.eosToken),
      ...present("unk_token", specialTokens.unkToken),
      ...present("pad_token", specialTokens.padToken),
    }),
  );
  if (text.length <= maxRenderedLength) return text;
  throw refused(`it wrote ${text.length} characters; at most ${maxRenderedLength} are taken`);
}

function attempt(render: () => string): string {
  try {
    return render();
  } catch (cause) {
    // Its own words: a template says by `raise_exception` what conversations it takes.
    throw refused(cause instanceof Error ? cause.message.slice(0, 500) : "unknown", cause);
  }
}

function present(name: string, token: string | null): Record<string, string> {
  return token === null ? {} : { [name]: token };
}

function refused(reason: string, cause?: unknown): CodedError {
  return new CodedError("unprocessable", `the checkpoint's chat template failed: ${reason}`, { cause });
}
