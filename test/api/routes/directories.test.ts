/** Real checkpoints over HTTP: registered from a directory, downloaded byte for byte, watched for change. */
import assert from "node:assert/strict";
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { assertProblem, startHarness, type Harness } from "../helpers/harness.ts";

const folders = ["stories260K", "stories260K-bf16", "stories260K-f16-sharded"];
const originals = sharedData("checkpoints");

describe("directories", needsShared(originals), () => {
  let api: Harness;
  const root = mkdtempSync(join(tmpdir(), "cambium-roots-"));
  before(async () => {
    for (const folder of folders) cpSync(join(originals!, folder), join(root, folder), { recursive: true });
    api = await startHarness({ environment: { IMPORT_ROOTS: root } });
  });
  after(async () => {
    await api.close();
    rmSync(root, { recursive: true, force: true });
  });

  const register = (folder: string, mode: string, name = folder) =>
    api.work("/v1/checkpoints", { name, source: { type: "directory", path: join(root, folder), mode } });

  for (const folder of folders) {
    for (const mode of ["reference", "copy"]) {
      test(`${folder}, by ${mode}, downloads byte for byte`, async () => {
        const { checkpoint } = (await register(folder, mode, `${folder}-${mode}`)).result;
        const { body } = await api.call("GET", `/v1/checkpoints/${checkpoint}/files`);
        const names: string[] = body.data.map((file: { name: string }) => file.name);
        assert.ok(names.includes("config.json") && names.some((name) => name.endsWith(".safetensors")), names.join());
        const present = new Set(readdirSync(join(root, folder)));
        for (const name of names) {
          assert.ok(present.has(name), name);
          const bytes = Buffer.from(
            await (await api.fetch(`/v1/checkpoints/${checkpoint}/files/${name}`)).arrayBuffer(),
          );
          assert.ok(bytes.equals(readFileSync(join(root, folder, name))), name);
        }
        const row = (await api.call("GET", `/v1/checkpoints/${checkpoint}`)).body;
        assert.equal(row.relation, "imported");
        assert.ok(row.num_parameters > 250_000 && row.num_parameters < 320_000, `${row.num_parameters}`);
        if (mode === "reference") assert.ok(row.stored_bytes < row.size_bytes);
      });
    }
  }

  test("the same weights have the same digest, however they came and were cut", async () => {
    const rows = (await api.call("GET", "/v1/checkpoints?limit=100")).body.data as { name: string; digest: string }[];
    const digest = (name: string) => rows.find((row) => row.name === name)!.digest;
    for (const folder of folders) assert.equal(digest(`${folder}-reference`), digest(`${folder}-copy`));
    assert.notEqual(digest("stories260K-copy"), digest("stories260K-bf16-copy"));
  });

  test("a link or a path that leaves the roots is refused, and a corrupt file names itself", async () => {
    symlinkSync("/etc", join(root, "link"));
    for (const path of [join(root, "link"), join(root, "..", "..", "etc"), "/"]) {
      assertProblem(
        await api.call("POST", "/v1/checkpoints", { body: { source: { type: "directory", path } } }),
        403,
        "forbidden",
      );
    }
    mkdirSync(join(root, "broken"));
    cpSync(join(root, "stories260K", "config.json"), join(root, "broken", "config.json"));
    writeFileSync(join(root, "broken", "model.safetensors"), Buffer.alloc(100, 7));
    const body = { source: { type: "directory", path: join(root, "broken") } };
    const { body: job } = await api.call("POST", "/v1/checkpoints", { body, headers: { Prefer: "wait=60" } });
    assert.deepEqual([job.status, job.error.code], ["failed", "checkpoint_corrupt"]);
    assert.match(job.error.message, /model\.safetensors/);
  });

  test("409 for a download whose registered file has changed; one that was copied is not touched by it", async () => {
    for (const mode of ["reference", "copy"]) {
      const folder = `watched-${mode}`;
      const weights = join(root, folder, "model.safetensors");
      cpSync(join(originals!, "stories260K"), join(root, folder), { recursive: true });
      // weights of its own: bytes that are in the store already would be served from there
      const bytes = readFileSync(weights);
      bytes[bytes.length - (mode === "copy" ? 4 : 8)]! ^= 1;
      writeFileSync(weights, bytes);
      const { checkpoint } = (await register(folder, mode)).result;
      const path = `/v1/checkpoints/${checkpoint}/files/model.safetensors`;
      assert.equal((await api.fetch(path, { headers: { Range: "bytes=0-7" } })).status, 206);
      appendFileSync(weights, "x");
      if (mode === "reference") assertProblem(await api.call("GET", path), 409, "source_changed");
      else assert.ok(Buffer.from(await (await api.fetch(path)).arrayBuffer()).equals(bytes));
    }
  });
});
