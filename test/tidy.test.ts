/**
 * The house rules that a machine can check: who may import whom, where packages may be used, how long files,
 * functions and lines may be, and what never stands in a source file. A rule that is not a test is a wish.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const MAX_FILE_LINES = 300;
const MAX_FUNCTION_LINES = 70;
const MAX_LINE_CHARACTERS = 120;
const MAX_TRACKED_BYTES = 1_000_000;

interface Source {
  readonly path: string;
  readonly text: string;
  readonly tree: ts.SourceFile;
  readonly imports: readonly string[];
}

const tracked = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
  cwd: root,
  encoding: "utf8",
})
  .split("\n")
  .filter((path) => path !== "");

function parse(path: string): Source {
  const text = readFileSync(join(root, path), "utf8");
  const tree = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  const imports: string[] = [];
  const visit = (node: ts.Node): void => {
    if ((ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) && node.moduleSpecifier) {
      imports.push((node.moduleSpecifier as ts.StringLiteral).text);
    }
    const argument = ts.isCallExpression(node) ? node.arguments[0] : undefined;
    if (
      ts.isCallExpression(node) &&
      node.expression.kind === ts.SyntaxKind.ImportKeyword &&
      argument &&
      ts.isStringLiteral(argument)
    ) {
      imports.push(argument.text);
    }
    ts.forEachChild(node, visit);
  };
  visit(tree);
  return { path, text, tree, imports };
}

const sources = tracked
  .filter((path) => path.startsWith("src/") && path.endsWith(".ts") && !path.endsWith(".gen.ts"))
  .map(parse);
const others = tracked.filter((path) => /^(test|bench|scripts)\/.*\.ts$/.test(path)).map(parse);

/** Folder of a source -> what it may import from src. A file directly in src/engine may import all of engine. */
const numerics = [
  "ops",
  "engine/checkpoint",
  "engine/tokenizer",
  "engine/data",
  "engine/kernels",
  "engine/model",
  "engine/train",
  "engine/infer",
  "engine/eval",
];
const walls: Readonly<Record<string, readonly string[]>> = {
  ops: ["ops"],
  "engine/checkpoint": ["ops", "engine/checkpoint"],
  "engine/growth": ["ops", "engine/checkpoint", "engine/kernels/wasm/compile.ts", "engine/growth"],
  "engine/tokenizer": ["ops", "engine/checkpoint", "engine/tokenizer"],
  "engine/data": ["ops", "engine/checkpoint", "engine/tokenizer", "engine/data"],
  "engine/kernels": numerics.slice(0, 5),
  "engine/model": numerics.slice(0, 6),
  "engine/train": [...numerics.slice(0, 7), "engine/backends/work.ts"],
  "engine/infer": [...numerics.slice(0, 6), "engine/infer"],
  "engine/eval": [...numerics.slice(0, 4), "engine/infer/servedModel.ts", "engine/eval", "engine/backends/work.ts"],
  "engine/backends": [...numerics, "engine/backends"],
  "engine/store": ["ops", "engine/store"],
  "engine/jobs": [
    ...numerics,
    "engine/growth",
    "engine/backends",
    "engine/store",
    "engine/jobs",
    "engine/settings.ts",
    "engine/log.ts",
    "engine/metrics.ts",
  ],
  "engine/serving": [
    "ops",
    "engine/checkpoint",
    "engine/tokenizer",
    "engine/infer",
    "engine/backends",
    "engine/serving",
    "engine/settings.ts",
    "engine/log.ts",
    "engine/metrics.ts",
  ],
  engine: ["ops", "engine"],
  api: [
    "ops",
    "api",
    "engine/store",
    "engine/jobs",
    "engine/serving",
    "engine/checkpoint",
    "engine/tokenizer",
    "engine/backends",
    "engine/eval/index.ts",
    "engine/eval/readSamples.ts",
    "engine/eval/task.ts",
    "engine/infer/servedModel.ts",
    "engine/settings.ts",
    "engine/log.ts",
    "engine/metrics.ts",
    "engine/services.ts",
  ],
};

/** Package prefix -> the only folders that may import it. */
const packages: Readonly<Record<string, readonly string[]>> = {
  "@tensorflow/": ["engine/kernels", "engine/model", "engine/train", "engine/infer", "engine/eval", "engine/backends"],
  koffi: ["engine/kernels", "engine/backends"],
  webgpu: ["engine/backends"],
  "drizzle-orm": ["engine/store", "engine/jobs"],
  "@electric-sql/": ["engine/store"],
  pg: ["engine/store"],
  "pg-boss": ["engine/jobs"],
  hono: ["api"],
  "@hono/": ["api"],
  "@tus/": ["api"],
  ajv: ["api"],
  "swagger-ui-dist": ["api"],
  hyparquet: ["engine/eval"],
  "hyparquet-compressors": ["engine/eval"],
  "@huggingface/": ["engine/tokenizer"],
};

function folderOf(path: string): string {
  const parts = path.replace(/^src\//, "").split("/");
  if (parts[0] === "engine" && parts.length > 2) return `engine/${parts[1]}`;
  return parts[0] ?? "";
}

const isPackage = (specifier: string): boolean => !specifier.startsWith(".") && !specifier.startsWith("node:");
const within = (target: string, allowed: string): boolean => target === allowed || target.startsWith(`${allowed}/`);

function resolveFrom(source: Source, specifier: string): string {
  return normalize(join(dirname(source.path), specifier))
    .replaceAll("\\", "/")
    .replace(/^src\//, "");
}

test("each folder imports only what its wall lets through", () => {
  const broken: string[] = [];
  for (const source of sources) {
    const folder = folderOf(source.path);
    const allowed = walls[folder];
    if (!allowed) broken.push(`${source.path}: folder ${folder} has no row in the table of walls`);
    for (const specifier of source.imports.filter((name) => name.startsWith("."))) {
      const target = resolveFrom(source, specifier);
      if (!(allowed ?? []).some((prefix) => within(target, prefix))) broken.push(`${source.path} imports ${target}`);
    }
  }
  assert.deepEqual(broken, []);
});

test("packages are used only in the folders that own them, and ops uses none", () => {
  const broken: string[] = [];
  for (const source of sources) {
    const folder = folderOf(source.path);
    for (const specifier of source.imports) {
      if (folder === "ops" && !specifier.startsWith(".")) broken.push(`${source.path} imports ${specifier}`);
      if (!isPackage(specifier)) continue;
      const rule = Object.entries(packages).find(
        ([name]) => specifier === name || specifier.startsWith(name.endsWith("/") ? name : `${name}/`),
      );
      if (rule && !rule[1].includes(folder)) broken.push(`${source.path} imports ${specifier}`);
    }
  }
  assert.deepEqual(broken, []);
});

test("ops is pure: no clock, no ambient randomness, no process", () => {
  const banned = /\bMath\.random\b|\bDate\.now\b|\bnew Date\(|\bperformance\.|\bprocess\./;
  const broken = sources.filter((source) => folderOf(source.path) === "ops" && banned.test(stripComments(source)));
  assert.deepEqual(
    broken.map((source) => source.path),
    [],
  );
});

test("the environment is read in settings.ts alone", () => {
  const broken = sources.filter(
    (source) => source.path !== "src/engine/settings.ts" && /\bprocess\.env\b/.test(stripComments(source)),
  );
  assert.deepEqual(
    broken.map((source) => source.path),
    [],
  );
});

test("files, functions and lines stay small", () => {
  const broken: string[] = [];
  for (const source of [...sources, ...others]) {
    const lines = source.text.split("\n");
    if (source.path.startsWith("src/") && lines.length > MAX_FILE_LINES + 1)
      broken.push(`${source.path}: ${lines.length} lines`);
    lines.forEach((line, index) => {
      if (line.length > MAX_LINE_CHARACTERS && source.path.startsWith("src/"))
        broken.push(`${source.path}:${index + 1}: ${line.length} characters`);
    });
    if (!source.path.startsWith("src/")) continue;
    const visit = (node: ts.Node): void => {
      if (ts.isFunctionLike(node) && "body" in node && node.body) {
        const first = source.tree.getLineAndCharacterOfPosition(node.getStart()).line;
        const last = source.tree.getLineAndCharacterOfPosition(node.end).line;
        if (last - first + 1 > MAX_FUNCTION_LINES)
          broken.push(`${source.path}:${first + 1}: a function of ${last - first + 1} lines`);
      }
      ts.forEachChild(node, visit);
    };
    visit(source.tree);
  }
  assert.deepEqual(broken, []);
});

test("every source says at its top what it is", () => {
  const broken = sources.filter((source) => !/^(#!.*\n)?\/\*\*/.test(source.text));
  assert.deepEqual(
    broken.map((source) => source.path),
    [],
  );
});

test("no source is orphaned: every file of src is imported by another or is an entry", () => {
  const imported = new Set<string>();
  for (const source of [...sources, ...others]) {
    for (const specifier of source.imports.filter((name) => name.startsWith("."))) {
      imported.add(normalize(join(dirname(source.path), specifier)));
    }
    for (const match of source.text.matchAll(/new URL\("(\.[^"]+\.ts)", import\.meta\.url\)/g)) {
      imported.add(normalize(join(dirname(source.path), match[1] ?? "")));
    }
  }
  const entries = new Set(["src/api/server.ts", "src/engine/worker.ts", "src/engine/keys.ts"]);
  assert.deepEqual(
    sources.map((source) => source.path).filter((path) => !entries.has(path) && !imported.has(path)),
    [],
  );
});

test("nothing unfinished and no path of one machine is tracked", () => {
  const unfinished = /\b(TODO|FIXME|XXX)\b/;
  const local = /(^|[^A-Za-z0-9_.-])\/(work|farm)\/|\/tmp\/bash_jobs|\/home\/[a-z]+\//;
  const broken: string[] = [];
  for (const source of [...sources, ...others]) {
    if (source.path === "test/tidy.test.ts") continue;
    source.text.split("\n").forEach((line, index) => {
      if (unfinished.test(line) || local.test(line)) broken.push(`${source.path}:${index + 1}: ${line.trim()}`);
    });
  }
  assert.deepEqual(broken, []);
});

test("the lockfile carries no download addresses and no tracked file is large", () => {
  const lock = readFileSync(join(root, "package-lock.json"), "utf8");
  assert.equal(/"resolved":/.test(lock), false);
  const large = tracked.filter(
    (path) => path !== "package-lock.json" && readFileSync(join(root, path)).length > MAX_TRACKED_BYTES,
  );
  assert.deepEqual(large, []);
});

function stripComments(source: Source): string {
  return source.text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/(^|[^:])\/\/.*$/gm, "$1");
}
