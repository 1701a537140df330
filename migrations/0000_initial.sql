CREATE TABLE "api_keys" (
	"id" text PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"scopes" json NOT NULL,
	"hash" text NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"last_used_at" timestamp (3) with time zone,
	CONSTRAINT "api_keys_hash_unique" UNIQUE("hash")
);
--> statement-breakpoint
CREATE TABLE "blob_refs" (
	"owner" text NOT NULL,
	"digest" text NOT NULL,
	CONSTRAINT "blob_refs_owner_digest_pk" PRIMARY KEY("owner","digest")
);
--> statement-breakpoint
CREATE TABLE "blobs" (
	"digest" text PRIMARY KEY NOT NULL,
	"size_bytes" bigint NOT NULL,
	"path" text,
	"mtime_ms" double precision,
	"created_at" timestamp (3) with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "checkpoint_parents" (
	"child" text NOT NULL,
	"parent" text NOT NULL,
	"relation" text NOT NULL,
	"position" integer NOT NULL,
	CONSTRAINT "checkpoint_parents_child_parent_pk" PRIMARY KEY("child","parent")
);
--> statement-breakpoint
CREATE TABLE "checkpoints" (
	"id" text PRIMARY KEY NOT NULL,
	"name" text,
	"manifest" json NOT NULL,
	"digest" text NOT NULL,
	"dtype" text NOT NULL,
	"num_parameters" bigint NOT NULL,
	"num_parameters_non_embedding" bigint NOT NULL,
	"size_bytes" bigint NOT NULL,
	"stored_bytes" bigint NOT NULL,
	"tokens_seen" bigint NOT NULL,
	"flops_spent" double precision NOT NULL,
	"data_seen" json NOT NULL,
	"relation" text NOT NULL,
	"receipt" json,
	"metadata" json NOT NULL,
	"job" text,
	"version" integer NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "datasets" (
	"id" text PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"manifest" json NOT NULL,
	"metadata" json NOT NULL,
	"job" text,
	"version" integer NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "evaluation_results" (
	"evaluation" text NOT NULL,
	"position" integer NOT NULL,
	"task" text NOT NULL,
	"task_version" text NOT NULL,
	"num_docs" integer NOT NULL,
	"metrics" json NOT NULL,
	"higher_is_better" json NOT NULL,
	"dataset_digest" text NOT NULL,
	"settings" json NOT NULL,
	CONSTRAINT "evaluation_results_evaluation_task_pk" PRIMARY KEY("evaluation","task")
);
--> statement-breakpoint
CREATE TABLE "evaluations" (
	"id" text PRIMARY KEY NOT NULL,
	"checkpoint" text NOT NULL,
	"job" text NOT NULL,
	"request" json NOT NULL,
	"version" integer NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL
);
--> statement-breakpoint
CREATE TABLE "idempotency" (
	"key" text NOT NULL,
	"scope" text NOT NULL,
	"body_digest" text NOT NULL,
	"response" json,
	"created_at" timestamp (3) with time zone NOT NULL,
	CONSTRAINT "idempotency_key_scope_pk" PRIMARY KEY("key","scope")
);
--> statement-breakpoint
CREATE TABLE "job_events" (
	"job" text NOT NULL,
	"seq" integer NOT NULL,
	"type" text NOT NULL,
	"data" json NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	CONSTRAINT "job_events_job_seq_pk" PRIMARY KEY("job","seq")
);
--> statement-breakpoint
CREATE TABLE "job_payloads" (
	"job" text PRIMARY KEY NOT NULL,
	"request" json NOT NULL
);
--> statement-breakpoint
CREATE TABLE "job_uses" (
	"job" text NOT NULL,
	"resource" text NOT NULL,
	CONSTRAINT "job_uses_job_resource_pk" PRIMARY KEY("job","resource")
);
--> statement-breakpoint
CREATE TABLE "jobs" (
	"id" text PRIMARY KEY NOT NULL,
	"kind" text NOT NULL,
	"status" text NOT NULL,
	"request" json NOT NULL,
	"progress" json NOT NULL,
	"result" json,
	"error" json,
	"attempts" integer NOT NULL,
	"failures" integer NOT NULL,
	"max_attempts" integer NOT NULL,
	"control" text,
	"resume" json,
	"backend" text,
	"worker" text,
	"queue_entry" text,
	"last_seq" integer NOT NULL,
	"version" integer NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	"started_at" timestamp (3) with time zone,
	"finished_at" timestamp (3) with time zone
);
--> statement-breakpoint
CREATE TABLE "workers" (
	"id" text PRIMARY KEY NOT NULL,
	"hostname" text NOT NULL,
	"pid" integer NOT NULL,
	"backends" json NOT NULL,
	"current_job" text,
	"embedded" boolean NOT NULL,
	"started_at" timestamp (3) with time zone NOT NULL,
	"heartbeat_at" timestamp (3) with time zone NOT NULL
);
--> statement-breakpoint
ALTER TABLE "blob_refs" ADD CONSTRAINT "blob_refs_digest_blobs_digest_fk" FOREIGN KEY ("digest") REFERENCES "public"."blobs"("digest") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "checkpoint_parents" ADD CONSTRAINT "checkpoint_parents_child_checkpoints_id_fk" FOREIGN KEY ("child") REFERENCES "public"."checkpoints"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "checkpoint_parents" ADD CONSTRAINT "checkpoint_parents_parent_checkpoints_id_fk" FOREIGN KEY ("parent") REFERENCES "public"."checkpoints"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "evaluation_results" ADD CONSTRAINT "evaluation_results_evaluation_evaluations_id_fk" FOREIGN KEY ("evaluation") REFERENCES "public"."evaluations"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "evaluations" ADD CONSTRAINT "evaluations_checkpoint_checkpoints_id_fk" FOREIGN KEY ("checkpoint") REFERENCES "public"."checkpoints"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "evaluations" ADD CONSTRAINT "evaluations_job_jobs_id_fk" FOREIGN KEY ("job") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "job_events" ADD CONSTRAINT "job_events_job_jobs_id_fk" FOREIGN KEY ("job") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "job_payloads" ADD CONSTRAINT "job_payloads_job_jobs_id_fk" FOREIGN KEY ("job") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "job_uses" ADD CONSTRAINT "job_uses_job_jobs_id_fk" FOREIGN KEY ("job") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "blob_refs_digest" ON "blob_refs" USING btree ("digest");--> statement-breakpoint
CREATE INDEX "checkpoint_parents_parent" ON "checkpoint_parents" USING btree ("parent");--> statement-breakpoint
CREATE INDEX "checkpoints_created" ON "checkpoints" USING btree ("created_at","id");--> statement-breakpoint
CREATE INDEX "checkpoints_name" ON "checkpoints" USING btree ("name","created_at");--> statement-breakpoint
CREATE INDEX "datasets_created" ON "datasets" USING btree ("created_at","id");--> statement-breakpoint
CREATE INDEX "datasets_name" ON "datasets" USING btree ("name","created_at");--> statement-breakpoint
CREATE INDEX "evaluation_results_task" ON "evaluation_results" USING btree ("task");--> statement-breakpoint
CREATE INDEX "evaluations_created" ON "evaluations" USING btree ("created_at","id");--> statement-breakpoint
CREATE INDEX "evaluations_checkpoint" ON "evaluations" USING btree ("checkpoint","created_at");--> statement-breakpoint
CREATE INDEX "evaluations_job" ON "evaluations" USING btree ("job");--> statement-breakpoint
CREATE INDEX "idempotency_created" ON "idempotency" USING btree ("created_at");--> statement-breakpoint
CREATE INDEX "job_events_type" ON "job_events" USING btree ("job","type","seq");--> statement-breakpoint
CREATE INDEX "job_uses_resource" ON "job_uses" USING btree ("resource");--> statement-breakpoint
CREATE INDEX "jobs_created" ON "jobs" USING btree ("created_at","id");--> statement-breakpoint
CREATE INDEX "jobs_status" ON "jobs" USING btree ("status","created_at");