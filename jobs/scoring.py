"""`python -m jobs.scoring CONFIG`: a run up to and including the stage scoring."""

from jobs.stage import run_stage

if __name__ == "__main__":
    run_stage("scoring")
