/** Settings: defaults, and an error that names the variable for every value that is not one. */
import assert from "node:assert/strict";
import { join, resolve } from "node:path";
import { test } from "node:test";
import { CodedError } from "../../src/ops/errors.ts";
import { computeEnvironment, parseSettings } from "../../src/engine/settings.ts";
import { settingsTable } from "../../src/engine/settingsTable.ts";

test("an empty environment gives safe defaults: loopback, embedded database, one import root", () => {
  const settings = parseSettings({});
  assert.equal(settings.host, "127.0.0.1");
  assert.equal(settings.port, 8080);
  assert.equal(settings.databaseUrl, null);
  assert.equal(settings.dataDir, resolve("data"));
  assert.deepEqual(settings.importRoots, [join(settings.dataDir, "imports")]);
  assert.equal(settings.backends, null);
  assert.equal(settings.hubToken, null);
});

test("lists and paths are taken apart and made absolute", () => {
  const settings = parseSettings({ DATA_DIR: "/x/y", IMPORT_ROOTS: "/a:/b/../c", BACKENDS: "cpu, wasm," });
  assert.deepEqual(settings.importRoots, ["/a", "/c"]);
  assert.deepEqual(settings.backends, ["cpu", "wasm"]);
  assert.equal(settings.blobDir, "/x/y/blobs");
  assert.equal(settings.benchmarksDir, "/x/y/benchmarks");
});

test("the build of the wasm kernels is the fastest that runs, unless one is named", () => {
  assert.equal(parseSettings({}).computeKernels, null);
  assert.equal(parseSettings({ COMPUTE_KERNELS: "auto" }).computeKernels, null);
  assert.equal(parseSettings({ COMPUTE_KERNELS: "simd128" }).computeKernels, "simd128");
});

const lies: readonly (readonly [variable: string, value: string])[] = [
  ["PORT", "http"],
  ["PORT", "65536"],
  ["PORT", "-1"],
  ["PORT", "80.5"],
  ["PORT", "1e3"],
  ["LOG_LEVEL", "loud"],
  ["DATABASE_URL", "mysql://localhost/x"],
  ["DATABASE_URL", "not a url"],
  ["HUB_ENDPOINT", "ftp://hub"],
  ["HOST", "a host"],
  ["COMPUTE_MEMORY_BYTES", "1024"],
  ["JOB_MAX_ATTEMPTS", "0"],
  ["COMPUTE_KERNELS", "avx512"],
  ["SERVING_CACHE_DTYPE", "F16"],
];
for (const [variable, value] of lies) {
  test(`${variable}=${value} is refused with a message that names the variable`, () => {
    assert.throws(
      () => parseSettings({ [variable]: value }),
      (error) => error instanceof CodedError && error.code === "invalid_request" && error.message.includes(variable),
    );
  });
}

test("a wrong DATABASE_URL is not repeated, because it may hold a password", () => {
  assert.throws(
    () => parseSettings({ DATABASE_URL: "mysql://user:secret@host/x" }),
    (error) => error instanceof CodedError && !error.message.includes("secret"),
  );
});

test("the environment of a compute process holds no secret, no database and no service", () => {
  const secrets = settingsTable.map(([variable]) => variable).filter((name) => !/^(COMPUTE|WEBGPU)_/.test(name));
  const foreign = [...secrets, "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "NODE_OPTIONS", "LD_PRELOAD"];
  const before = { ...process.env };
  for (const name of [...foreign, "WEBGPU_ADAPTER", "NODE_COMPILE_CACHE"]) process.env[name] = "set";
  try {
    const kept = new Set(Object.keys(computeEnvironment()));
    assert.deepEqual(
      foreign.filter((name) => kept.has(name)),
      [],
    );
    assert.ok(kept.has("WEBGPU_ADAPTER") && kept.has("NODE_COMPILE_CACHE") && kept.has("PATH"));
  } finally {
    process.env = before;
  }
});

test("every variable of the table is read, and read under that name", () => {
  for (const [variable] of settingsTable) {
    const seen: (string | symbol)[] = [];
    parseSettings(new Proxy({}, { get: (_target, name) => void seen.push(name) }));
    assert.ok(seen.includes(variable), variable);
    assert.equal(seen.length, new Set(seen).size);
    assert.equal(seen.length, settingsTable.length);
  }
});
