CREATE TABLE "job_parts" (
	"job" text NOT NULL,
	"seq" integer NOT NULL,
	"data" json NOT NULL,
	CONSTRAINT "job_parts_job_seq_pk" PRIMARY KEY("job","seq")
);
--> statement-breakpoint
ALTER TABLE "evaluation_results" ADD COLUMN "samples" json;--> statement-breakpoint
ALTER TABLE "job_parts" ADD CONSTRAINT "job_parts_job_jobs_id_fk" FOREIGN KEY ("job") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;