/**
 * The types between the contract and the code: what a handler of an operation is given, and what it may answer.
 * `Handlers` has one entry for each `operationId` of openapi.yaml, so that a missing handler, an undeclared field
 * or a body that the contract does not promise is a compile error. Nothing runs here.
 */
import type { Logger } from "pino";
import type { components, operations } from "./openapi.gen.ts";

export type OperationId = keyof operations;
export type Schemas = components["schemas"];
export type Scope = Schemas["Scope"];

/** Who is asking: an API key, or whoever can reach the loopback address while authentication is off. */
export interface Principal {
  /** Id of the key, or `local`. */
  readonly id: string;
  readonly scopes: readonly Scope[];
}

type Parameters<Id extends OperationId> = operations[Id]["parameters"];
type Part<Id extends OperationId, Where extends "query" | "path" | "header"> = NonNullable<Parameters<Id>[Where]>;
type JsonBody<Body> = { requestBody: { content: { "application/json": Body } } };
type BodyOf<Operation> = Operation extends JsonBody<infer Body> ? Body : undefined;

/** A request as the contract declares it, checked, with its defaults filled in. */
export interface Call<Id extends OperationId> {
  readonly path: Part<Id, "path">;
  readonly query: Part<Id, "query">;
  readonly header: Part<Id, "header">;
  readonly body: BodyOf<operations[Id]>;
  /** As it came; its body is still unread where the operation's is not JSON. */
  readonly request: Request;
  /** Aborted when the client is gone or the server stops. */
  readonly signal: AbortSignal;
  readonly requestId: string;
  readonly principal: Principal;
  readonly log: Logger;
}

/** A JSON answer with one of the declared statuses. */
export interface JsonReply<Status extends number, Body> {
  readonly status: Status;
  readonly body: Body;
  readonly headers?: Readonly<Record<string, string>>;
}

type Responses<Id extends OperationId> = operations[Id]["responses"];
type Status<Id extends OperationId> = keyof Responses<Id> & number;
type JsonOf<Answer> = Answer extends { content: { "application/json": infer Body } } ? Body : never;

/** What a handler of the operation answers: declared JSON, or a `Response` of its own for anything else. */
export type Reply<Id extends OperationId> =
  Response | { [S in Status<Id>]: ReplyWith<S, JsonOf<Responses<Id>[S]>> }[Status<Id>];

/** A declared status without JSON is no JSON answer. */
type ReplyWith<S extends number, Body> = [Body] extends [never] ? never : JsonReply<S, Body>;

export type Handler<Id extends OperationId> = (call: Call<Id>) => Promise<Reply<Id>> | Reply<Id>;

/** One handler for each operation of the contract. */
export type Handlers = { readonly [Id in OperationId]: Handler<Id> };

/** Some of the handlers, by their operation ids: what one file of routes makes. */
export type HandlersOf<Ids extends OperationId> = Pick<Handlers, Ids>;
