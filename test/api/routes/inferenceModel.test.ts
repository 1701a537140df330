/** Which checkpoint is meant is asked at each request; where its files lie, now and then. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { createFindModel } from "../../../src/api/routes/inferenceModel.ts";
import type { CheckpointRow, Store } from "../../../src/engine/store/types.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { tinyCheckpoint } from "../../helpers/tinyCheckpoint.ts";

const tiny = ["ckpt_a", "ckpt_b"].map((id) => tinyCheckpoint({ id }));
after(() => {
  for (const { remove } of tiny) remove();
});

/** A store with names, which counts how often it is asked where files lie. */
function namedStore() {
  const names = new Map<string, string>([
    ["first", "ckpt_a"],
    ["second", "ckpt_b"],
  ]);
  const asked = { resolve: 0 };
  const rowOf = (id: string): CheckpointRow => {
    const found = tiny.find(({ checkpoint }) => checkpoint.id === id);
    assert.ok(found);
    return { id, manifest: found.checkpoint.manifest } as CheckpointRow;
  };
  const checkpoints = {
    get: async (name: string) => {
      const id = names.get(name);
      if (id === undefined) throw new CodedError("not_found", name);
      return rowOf(id);
    },
    list: async () => ({ rows: [...names.values()].map(rowOf), next: null }),
    resolve: async ({ id }: CheckpointRow) => {
      asked.resolve++;
      const { checkpoint } = tiny.find((one) => one.checkpoint.id === id)!;
      return { ...checkpoint, blobs: { weights: { ...checkpoint.blobs["weights"]!, path: `${asked.resolve}` } } };
    },
  };
  return { store: { checkpoints } as unknown as Store, names, asked };
}

test("files of a checkpoint are looked for once in a while, whatever name it is asked by", async () => {
  const { store, names, asked } = namedStore();
  let nowMs = 1_000;
  const find = createFindModel(store, () => nowMs);
  names.set("alias", "ckpt_a");
  for (const name of ["first", "alias", "first"]) assert.equal((await find(name)).checkpoint.id, "ckpt_a");
  assert.equal(asked.resolve, 1);
  assert.equal((await find("second")).checkpoint.id, "ckpt_b");
  assert.equal(asked.resolve, 2);
  nowMs += 5_001;
  assert.equal((await find("first")).checkpoint.blobs["weights"]!.path, "3");
});

test("a checkpoint that was deleted is not found at once, and a name that moved means the other at once", async () => {
  const { store, names } = namedStore();
  const find = createFindModel(store);
  assert.equal((await find("first")).row.id, "ckpt_a");
  await assert.rejects(find(null), (error) => error instanceof CodedError && error.code === "invalid_request");
  names.set("first", "ckpt_b");
  assert.equal((await find("first")).checkpoint.id, "ckpt_b");
  names.delete("first");
  await assert.rejects(find("first"), (error) => error instanceof CodedError && error.code === "not_found");
  assert.equal((await find(null)).row.id, "ckpt_b");
});
