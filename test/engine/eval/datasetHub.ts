/**
 * A local HTTP server that behaves like the datasets part of a model hub: revisions with their commits and listings,
 * files by commit, Parquet redirected to a second host with the linked etag and size, ranges, and what can go wrong.
 */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface DatasetHub {
  readonly endpoint: string;
  /** `host path`, in order. */
  readonly seen: { readonly host: "hub" | "cdn"; readonly path: string; readonly authorization: string | undefined }[];
  /** Answers instead of the hub where it returns true. */
  trouble: (host: "hub" | "cdn", path: string, response: ServerResponse, range: number) => boolean;
  close(): void;
}

/** Repository -> revision -> its commit and files. */
export type HubContent = Record<string, Record<string, { commit: string; files: Record<string, Uint8Array> }>>;

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

async function listen(handler: (request: IncomingMessage, response: ServerResponse) => void) {
  const server = createServer(handler);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, address: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

function send(response: ServerResponse, body: Uint8Array, from: number): void {
  const headers: Record<string, string | number> = { "content-length": body.length - from };
  if (from > 0) headers["content-range"] = `bytes ${from}-${body.length - 1}/${body.length}`;
  response.writeHead(from > 0 ? 206 : 200, headers).end(body.subarray(from));
}

export async function startDatasetHub(content: HubContent): Promise<DatasetHub> {
  const seen: DatasetHub["seen"] = [];
  const byDigest = new Map<string, Uint8Array>();
  const note = (host: "hub" | "cdn", request: IncomingMessage, response: ServerResponse): number | null => {
    const path = request.url ?? "";
    const from = Number(/^bytes=([0-9]+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
    seen.push({ host, path, authorization: request.headers.authorization });
    return made.trouble(host, path, response, from) ? null : from;
  };
  const cdn = await listen((request, response) => {
    const from = note("cdn", request, response);
    const body = byDigest.get((request.url ?? "").split("/").at(-1) ?? "");
    if (from !== null && body) send(response, body, from);
  });
  const hub = await listen((request, response) => {
    const from = note("hub", request, response);
    if (from === null) return;
    const path = request.url ?? "";
    const [, listed, revision] = /^\/api\/datasets\/([^/]+\/[^/]+)\/revision\/([^?]+)\?blobs=true$/.exec(path) ?? [];
    const version = content[listed ?? ""]?.[decodeURIComponent(revision ?? "")];
    if (version) {
      const siblings = Object.entries(version.files).map(([rfilename, body]) => {
        const large = rfilename.endsWith(".parquet") ? { lfs: { sha256: sha256(body), size: body.length } } : {};
        return { rfilename, size: body.length, ...large };
      });
      return send(response, Buffer.from(JSON.stringify({ sha: version.commit, siblings })), 0);
    }
    const [, repository, commit, name] = /^\/datasets\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path) ?? [];
    const resolved = Object.values(content[repository ?? ""] ?? {}).find((one) => one.commit === commit);
    const body = resolved?.files[decodeURIComponent(name ?? "")];
    if (!body) return void response.writeHead(404).end();
    if (!path.endsWith(".parquet")) return send(response, body, from);
    byDigest.set(sha256(body), body);
    const linked = { "x-linked-etag": `"${sha256(body)}"`, "x-linked-size": body.length };
    response.writeHead(302, { location: `${cdn.address}/objects/${sha256(body)}`, ...linked }).end();
  });
  const made: DatasetHub = {
    endpoint: hub.address,
    seen,
    trouble: () => false,
    close() {
      for (const { server } of [hub, cdn]) {
        server.closeAllConnections();
        server.close();
      }
    },
  };
  return made;
}
