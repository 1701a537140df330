import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { rollingWindows } from "../../../src/engine/eval/windows.ts";
import { needsShared, sharedReference } from "../../helpers/shared.ts";

const goldenPath = sharedReference("eval-golden.json");

function range(length: number): number[] {
  return Array.from({ length }, (_, i) => i);
}

test("windows equal those of the harness", needsShared(goldenPath), () => {
  const { windows } = JSON.parse(readFileSync(goldenPath ?? "", "utf8")) as {
    windows: { max_seq_len: number; n_tokens: number; disjoint: [number[], number[]][] }[];
  };
  assert.ok(windows.length > 0);
  for (const { max_seq_len: maxLength, n_tokens: count, disjoint } of windows) {
    const got = rollingWindows(range(count), -1, maxLength).map((w) => [w.context, w.continuation]);
    assert.deepEqual(got, disjoint, `${count} tokens in windows of ${maxLength}`);
  }
});

test("the scored tokens are the text, once and in order, whatever the lengths", () => {
  for (let count = 0; count <= 40; count++) {
    for (let maxLength = 1; maxLength <= 12; maxLength++) {
      const windows = rollingWindows(range(count), -1, maxLength);
      assert.deepEqual(
        windows.flatMap((w) => w.continuation),
        range(count),
      );
      for (const { context, continuation } of windows) {
        assert.ok(context.length >= 1);
        assert.ok(context.length + continuation.length <= maxLength + 1, "fits the model");
        assert.equal(context.at(-1), (continuation[0] ?? 0) - 1, "the context ends right before what is scored");
      }
    }
  }
});

test("an empty text has no window", () => {
  assert.deepEqual(rollingWindows([], 1, 8), []);
});
