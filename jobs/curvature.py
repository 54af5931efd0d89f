"""`python -m jobs.curvature CONFIG`: a run up to and including the stage curvature."""

from jobs.stage import run_stage

if __name__ == "__main__":
    run_stage("curvature")
