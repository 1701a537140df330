import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { checkVocabulary } from "../../../src/engine/tokenizer/tokenizer.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { goldenSources, loadGoldenTokenizer, readGolden } from "./goldenTokenizers.ts";

const goldenFolder = sharedData("golden", "hf", "tokenizers");
const keep = { skipSpecialTokens: false };
const skip = { skipSpecialTokens: true };

for (const name of Object.keys(goldenSources)) {
  describe(`${name} equals Hugging Face tokenizers`, needsShared(goldenFolder), () => {
    test("ids with and without special tokens", () => {
      const tokenizer = loadGoldenTokenizer(name);
      const golden = readGolden(name);
      assert.equal(tokenizer.vocabSize, golden.vocab_size);
      for (const vector of golden.vectors) {
        assert.deepEqual(tokenizer.encode(vector.text, { addSpecialTokens: false }), vector.ids, vector.text);
        assert.deepEqual(tokenizer.encode(vector.text, { addSpecialTokens: true }), vector.ids_special, vector.text);
      }
    });

    test("tokens have the names that the vocabulary gives them", () => {
      const tokenizer = loadGoldenTokenizer(name);
      const path = sharedData(...goldenSources[name]!) ?? "";
      const { model } = JSON.parse(readFileSync(path, "utf8")) as { model: { vocab: Record<string, number> } };
      const entries = Object.entries(model.vocab);
      assert.ok(entries.length > 100);
      for (const [token, id] of entries) assert.equal(tokenizer.tokenName(id), token);
      assert.equal(tokenizer.tokenName(9_999_999), "token_id:9999999");
    });

    test("text of ids, also where bytes are not UTF-8", () => {
      const tokenizer = loadGoldenTokenizer(name);
      const golden = readGolden(name);
      for (const vector of golden.vectors) {
        assert.equal(tokenizer.decode(vector.ids, keep), vector.decoded);
        assert.equal(tokenizer.decode(vector.ids, skip), vector.decoded_skip);
        assert.equal(tokenizer.decode(vector.ids_special, keep), vector.decoded_special);
        assert.equal(tokenizer.decode(vector.ids_special, skip), vector.decoded_special_skip);
      }
      assert.ok(golden.decode_only.length > 0);
      for (const vector of golden.decode_only) {
        assert.equal(tokenizer.decode(vector.ids, keep), vector.decoded, JSON.stringify(vector.ids));
        assert.equal(tokenizer.decode(vector.ids, skip), vector.decoded_skip, JSON.stringify(vector.ids));
      }
    });
  });
}

const encodings = sharedData("golden", "tokenizers", "encodings.jsonl");
test("the ids of real texts equal sentencepiece and Hugging Face tokenizers", needsShared(encodings), () => {
  const columns = {
    tok512: "tok512-stories260K",
    llama2_32k: "llama2-32k",
    gpt2: "gpt2",
    gpt_neox_olmo: "gpt-neox-olmo",
  };
  const rows = readFileSync(encodings ?? "", "utf8")
    .trim()
    .split("\n");
  for (const [column, name] of Object.entries(columns)) {
    const tokenizer = loadGoldenTokenizer(name);
    let compared = 0;
    for (const row of rows) {
      const parsed = JSON.parse(row) as Record<string, unknown>;
      if (!parsed[column]) continue;
      const text = String(parsed["text"]);
      assert.deepEqual(tokenizer.encode(text, { addSpecialTokens: false }), parsed[column], `${name}: ${text}`);
      compared++;
    }
    assert.ok(compared > 100, `${compared} rows compared for ${name}`);
  }
});

const vectors = sharedData("tokenizers", "llamacpp_vectors");
test("the vectors that llama.cpp tests its vocabularies with", needsShared(vectors), () => {
  const folder = vectors ?? "";
  const texts = readFileSync(`${folder}/ggml-vocab.inp`, "utf8").split("\n__ggml_vocab_test__\n");
  const files = { gpt2: "ggml-vocab-gpt-2.gguf.out", "llama2-32k": "ggml-vocab-llama-spm.gguf.out" };
  for (const [name, file] of Object.entries(files)) {
    const tokenizer = loadGoldenTokenizer(name);
    const lines = readFileSync(`${folder}/${file}`, "utf8").split("\n");
    texts.forEach((text, index) => {
      const expected = (lines[index] ?? "").trim().split(" ").filter(Boolean).map(Number);
      assert.deepEqual(tokenizer.encode(text, { addSpecialTokens: false }), expected, JSON.stringify(text));
    });
  }
});

test("special tokens, chat template and token strings of a Llama tokenizer", needsShared(goldenFolder), () => {
  const tokenizer = loadGoldenTokenizer("tok512-stories260K");
  assert.equal(tokenizer.bosTokenId, 1);
  assert.equal(tokenizer.eosTokenId, 2);
  assert.deepEqual(tokenizer.specialTokens, { bosToken: "<s>", eosToken: "</s>", unkToken: "<unk>", padToken: null });
  assert.equal(tokenizer.modelMaxLength, 512);
  assert.equal(tokenizer.tokenText(1), "<s>");
  assert.equal(tokenizer.tokenText(410), " ");
  assert.equal(tokenizer.tokenText(13), "\n");
  assert.equal(tokenizer.tokenText(3 + 0xe4), "bytes:\\xe4");
  assert.equal(tokenizer.tokenText(512), "token_id:512");
  assert.equal(tokenizer.decode([600, -1, 1.5], keep), "");
});

test("a byte-level token that is half a character shows its bytes", needsShared(goldenFolder), () => {
  const tokenizer = loadGoldenTokenizer("gpt2");
  assert.equal(tokenizer.eosTokenId, 50256, "found among the special tokens, without a tokenizer_config.json");
  assert.equal(tokenizer.tokenText(262), " the");
  const ids = tokenizer.encode("\u{1F999}", { addSpecialTokens: false });
  assert.match(tokenizer.tokenText(ids[0] ?? -1), /^bytes:\\xf0|^bytes:(\\x[0-9a-f]{2})+$/);
});

test("a model with fewer rows than the tokenizer has tokens is refused", needsShared(goldenFolder), () => {
  const tokenizer = loadGoldenTokenizer("tok512-stories260K");
  checkVocabulary(tokenizer, 512);
  checkVocabulary(tokenizer, 640);
  assert.throws(
    () => checkVocabulary(tokenizer, 511),
    (error: unknown) => {
      return error instanceof CodedError && error.code === "tokenizer_invalid" && /512.*511/.test(error.message);
    },
  );
});
