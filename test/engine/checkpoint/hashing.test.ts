/** Hashing in threads gives the digests that a plain hash gives, in order, and stops when asked. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { hashRanges, type ByteRange } from "../../../src/engine/checkpoint/hashing.ts";
import { rejectsWith, scratch } from "./fixtures.ts";

test("threads and no threads give the same digests, in the order asked for", async (t) => {
  const dir = await scratch(t);
  const files = await Promise.all(
    [0, 1, 2].map(async (at) => {
      const bytes = Buffer.from(
        Uint8Array.from({ length: 1_500_000 + at }, (_unused, index) => (index * (at + 3)) >> 3),
      );
      await writeFile(join(dir, `f${at}`), bytes);
      return { path: join(dir, `f${at}`), bytes };
    }),
  );
  const ranges: ByteRange[] = [];
  const expected: string[] = [];
  for (const { path, bytes } of files) {
    for (const [offset, sizeBytes] of [
      [0, bytes.length],
      [0, 0],
      [7, 1_048_576],
      [1_048_575, 3],
      [bytes.length - 1, 1],
    ] as const) {
      ranges.push({ path, offset, sizeBytes });
      expected.push(
        createHash("sha256")
          .update(bytes.subarray(offset, offset + sizeBytes))
          .digest("hex"),
      );
    }
  }
  const total = ranges.reduce((sum, range) => sum + range.sizeBytes, 0);
  for (const options of [{ inlineBytes: 1e9 }, { inlineBytes: 0, threads: 2 }, { inlineBytes: 0, threads: 1 }]) {
    const seen: number[] = [];
    const digests = await hashRanges(ranges, { ...options, onProgress: (done) => seen.push(done) });
    assert.deepEqual(digests, expected);
    assert.equal(seen.at(-1), total);
  }
  assert.deepEqual(await hashRanges([]), []);
  assert.deepEqual(await hashRanges([], { inlineBytes: 0 }), []);
});

test("a file that ends too early or is gone is source_changed, in threads and without", async (t) => {
  const path = join(await scratch(t), "f");
  await writeFile(path, "short");
  for (const inlineBytes of [0, 1e9]) {
    await rejectsWith(hashRanges([{ path, offset: 0, sizeBytes: 6 }], { inlineBytes }), "source_changed", path);
    await rejectsWith(
      hashRanges([{ path: `${path}x`, offset: 0, sizeBytes: 6 }], { inlineBytes }),
      "source_changed",
      path,
    );
  }
});

test("aborting ends the threads at once, with the signal's reason", async (t) => {
  const path = join(await scratch(t), "sparse");
  await writeFile(path, "");
  await truncate(path, 40 * 2 ** 30);
  const abort = new AbortController();
  const work = hashRanges([{ path, offset: 0, sizeBytes: 40 * 2 ** 30 }], {
    signal: abort.signal,
    onProgress: () => abort.abort(new Error("enough")),
  });
  await assert.rejects(work, /enough/);
  await assert.rejects(hashRanges([], { signal: abort.signal }), /enough/);
});
