/** A local HTTP server that behaves like a model hub: a listing, files, redirects to a second host, and failures. */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";
import type { Files } from "./fixtures.ts";

export interface Seen {
  readonly host: "hub" | "cdn";
  readonly path: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

/** What happens to a request instead of the right answer; undefined leaves it to the hub. */
export type Trouble = (request: Seen, response: ServerResponse, count: number) => boolean | undefined;

export interface FakeHub {
  readonly endpoint: string;
  readonly seen: Seen[];
  trouble: Trouble;
  /** Changes what the listing says. */
  listing: (files: Record<string, unknown>[]) => unknown;
}

export const commit = "a".repeat(40);
export const repository = "owner/tiny-llama";

const bytesOf = (content: Uint8Array | string): Buffer => Buffer.from(content as string);
const digest = (algorithm: string, ...parts: (string | Uint8Array)[]): string => {
  const hash = createHash(algorithm);
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
};

async function listen(
  t: TestContext,
  handler: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<[Server, string]> {
  const server = createServer(handler);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return [server, `http://127.0.0.1:${(server.address() as AddressInfo).port}`];
}

function send(request: IncomingMessage, response: ServerResponse, body: Buffer): void {
  const from = Number(/^bytes=([0-9]+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
  const headers: Record<string, string | number> = { "content-length": body.length - from };
  if (from > 0) headers["content-range"] = `bytes ${from}-${body.length - 1}/${body.length}`;
  response.writeHead(from > 0 ? 206 : 200, headers).end(body.subarray(from));
}

/** Starts the hub and its second host, which large files are redirected to. */
export async function fakeHub(t: TestContext, files: Files): Promise<FakeHub> {
  const seen: Seen[] = [];
  const hub: FakeHub = {
    endpoint: "",
    seen,
    trouble: () => undefined,
    listing: (siblings) => ({ sha: commit, siblings }),
  };
  const note = (host: "hub" | "cdn", request: IncomingMessage): [Seen, number] => {
    const { range, authorization } = request.headers;
    const one = { host, path: request.url ?? "", range, authorization };
    seen.push(one);
    return [one, seen.filter((other) => other.host === host && other.path === one.path).length];
  };
  const [, cdn] = await listen(t, (request, response) => {
    const [one, count] = note("cdn", request);
    if (hub.trouble(one, response, count) === true) return;
    send(request, response, bytesOf(files[(request.url ?? "").slice(1)] ?? ""));
  });
  const [, endpoint] = await listen(t, (request, response) => {
    const [one, count] = note("hub", request);
    if (hub.trouble(one, response, count) === true) return;
    const resolve = `/${repository}/resolve/${commit}/`;
    const name = one.path.startsWith(resolve) ? decodeURIComponent(one.path.slice(resolve.length)) : null;
    if (one.path === `/api/models/${repository}/revision/main?blobs=true`) {
      send(request, response, bytesOf(JSON.stringify(hub.listing(siblings(files)))));
    } else if (name !== null && name in files) {
      if (!name.endsWith(".safetensors")) return send(request, response, bytesOf(files[name] ?? ""));
      const body = bytesOf(files[name] ?? "");
      response
        .writeHead(302, {
          location: `${cdn}/${name}`,
          "x-linked-etag": `"${digest("sha256", body)}"`,
          "x-linked-size": body.length,
        })
        .end();
    } else {
      response.writeHead(404).end();
    }
  });
  return Object.assign(hub, { endpoint });
}

function siblings(files: Files): Record<string, unknown>[] {
  return Object.entries(files).map(([rfilename, content]) => {
    const body = bytesOf(content);
    const size = body.length;
    if (!rfilename.endsWith(".safetensors")) return { rfilename, size, blobId: digest("sha1", `blob ${size}\0`, body) };
    return { rfilename, size, blobId: "0".repeat(40), lfs: { sha256: digest("sha256", body), size, pointerSize: 130 } };
  });
}
