import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { blobPath } from "../../../src/engine/checkpoint/blobs.ts";
import { ShardWriter, tokenDtypeFor } from "../../../src/engine/data/shardWriter.ts";
import { createWorkplace } from "./fixtures.ts";

function range(first: number, end: number): Uint32Array {
  return Uint32Array.from({ length: end - first }, (_, i) => first + i);
}

test("shards are cut at the limit, wherever the writes fall, and hold every token once", async () => {
  await using workplace = await createWorkplace();
  const expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]];
  for (const cuts of [[10], [1, 4, 9, 10], [4, 8, 10], [3, 3, 10]]) {
    const writer = new ShardWriter(workplace.blobDir, "u16", 4);
    let from = 0;
    for (const to of cuts) {
      await writer.write(range(from, to));
      from = to;
    }
    await writer.finish();
    assert.deepEqual(writer.shards.map(({ numTokens }) => numTokens), [4, 4, 2]);
    assert.equal(writer.numTokens, 10);
    for (const [i, shard] of writer.shards.entries()) {
      const bytes = await readFile(blobPath(workplace.blobDir, shard.blob));
      assert.deepEqual(Array.from({ length: bytes.length / 2 }, (_, at) => bytes.readUInt16LE(at * 2)), expected[i]);
    }
  }
});

test("equal tokens make equal shards, and no token makes none", async () => {
  await using workplace = await createWorkplace();
  const write = async (ids: Uint32Array): Promise<string[]> => {
    const writer = new ShardWriter(workplace.blobDir, "u32");
    await writer.write(ids);
    await writer.finish();
    return writer.shards.map(({ blob }) => blob);
  };
  assert.deepEqual(await write(range(0, 9)), await write(range(0, 9)));
  assert.deepEqual(await write(range(0, 0)), []);
});

test("an aborted shard leaves nothing behind", async () => {
  await using workplace = await createWorkplace();
  const writer = new ShardWriter(workplace.blobDir, "u16");
  await writer.write(range(0, 100));
  await writer.abort();
  assert.deepEqual(await readdir(join(workplace.blobDir, "tmp")), []);
  assert.deepEqual(writer.shards, []);
});

test("tokens take two bytes as long as every id fits", () => {
  assert.equal(tokenDtypeFor(65_536), "u16");
  assert.equal(tokenDtypeFor(65_537), "u32");
});
