from gateway.forwarding.aborts import AbortBudget


def test_everybody_comes_in_while_there_is_room() -> None:
    budget = AbortBudget(100)
    for _ in range(89):
        assert budget.admits(0.0)
        budget.broke_off(50.5)
    assert budget.admits(0.0)
    assert budget.worrying


def test_near_the_limit_one_comes_in_every_ten_seconds() -> None:
    budget = AbortBudget(100)
    for _ in range(90):
        budget.broke_off(50.5)
    assert [budget.admits(now) for now in (100.0, 100.1, 109.9, 110.0, 110.1)] == [True, False, False, True, False]


def test_a_login_forgets_a_dial_that_was_given_up_only_once_it_is_settled() -> None:
    budget = AbortBudget(100)
    budget.given_up(50.0)
    budget.broke_off(51.0)
    budget.logged_in(55.0)
    assert budget.broken == 1  # it may connect yet
    budget.logged_in(60.5)
    assert budget.broken == 0


def test_a_login_starts_the_count_anew_and_an_old_one_does_not() -> None:
    budget = AbortBudget(100)
    for _ in range(95):
        budget.broke_off(50.5)
    budget.logged_in(50.0)
    assert budget.broken == 95
    budget.logged_in(51.0)
    assert budget.broken == 0
    assert not budget.worrying
