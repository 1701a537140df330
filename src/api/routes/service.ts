/** Health, metrics, the contract, and the page at `/` that leads to all of it. */
import { CodedError } from "../../ops/errors.ts";
import { negotiate } from "../accept.ts";
import type { RouteDeps } from "../deps.ts";
import type { HandlersOf } from "../handlers.ts";
import { etagOf, noneMatch } from "../middleware/etag.ts";

/** Time that the database has to answer a readiness check, ms. */
const pingTimeoutMs = 2_000;

const links: Readonly<Record<string, string>> = {
  documentation: "/docs",
  contract: "/openapi.yaml",
  health: "/healthz",
  readiness: "/readyz",
  metrics: "/metrics",
  checkpoints: "/v1/checkpoints",
  jobs: "/v1/jobs",
  benchmarks: "/v1/benchmarks",
  backends: "/v1/backends",
  models: "/v1/models",
};

const indexPolicy = "default-src 'none'; img-src data:";

type ServiceOperations = "getRoot" | "getHealth" | "getReadiness" | "getMetrics" | "getContract";

export function createServiceHandlers(deps: RouteDeps): HandlersOf<ServiceOperations> {
  const { contract } = deps;
  const contractTag = etagOf(contract.text);
  return {
    getRoot({ request }) {
      const form = negotiate(request, ["application/json", "text/html"]);
      if (form === "application/json") {
        return { status: 200, body: { name: "cambium", version: contract.version, links: { ...links } } };
      }
      const headers = { "Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": indexPolicy };
      return new Response(indexPage(contract.version), { headers });
    },
    getHealth() {
      return { status: 200, body: { status: "ok" } };
    },
    async getReadiness() {
      if (deps.closing.aborted) throw new CodedError("unavailable", "the server is stopping");
      await deps.store.ping(pingTimeoutMs);
      return { status: 200, body: { status: "ok" } };
    },
    async getMetrics() {
      const { registry } = deps.metrics;
      return new Response(await registry.metrics(), { headers: { "Content-Type": registry.contentType } });
    },
    getContract({ header }) {
      const headers = { ETag: contractTag, "Cache-Control": "no-cache" };
      if (noneMatch(header["If-None-Match"], contractTag)) return new Response(null, { status: 304, headers });
      const type = { "Content-Type": "application/yaml; charset=utf-8" };
      return new Response(contract.text, { headers: { ...headers, ...type } });
    },
  };
}

function indexPage(version: string): string {
  const item = ([name, path]: [string, string]) => `<li><a href="${path}">${name}</a> <code>${path}</code></li>`;
  const items = Object.entries(links).map(item);
  return `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Cambium</title><link rel="icon" href="data:,"></head>
<body>
<h1>Cambium ${version}</h1>
<p>Grow LLM checkpoints, continue their pre-training, evaluate and query them.</p>
<ul>${items.join("")}</ul>
</body>
</html>
`;
}
