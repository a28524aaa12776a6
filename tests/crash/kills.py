"""Kills at random moments, of the first run and of those that resume it."""


def at_random(trial, chance, kills, whole):
    """Kills a trial up to so often and lets it end. `whole` is about how long an undisturbed run
    takes, in seconds. Yields what is wrong."""
    pause = whole / kills
    for _ in range(kills):
        # Some soon after the start, where a resumed run reads what is there.
        moment = chance.uniform(0.01, 0.08 if chance.random() < 0.3 else pause * 1.2)
        run = trial.run(kill_after=moment)
        if run.code == 0:
            yield from trial.judge(run)
            return
        if run.code != -9:
            yield f"a run that was not disturbed yet: {run.story()}"
            return
        yield from trial.between()
        if trial.ended():
            break
    yield from trial.complete()
