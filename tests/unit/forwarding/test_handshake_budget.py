from gateway.forwarding.handshake_budget import HandshakeBudget


def test_allows_all_clients_below_the_limit() -> None:
    budget = HandshakeBudget(100)
    for _ in range(89):
        assert budget.allows(0.0)
        budget.record_aborted(50.5)
    assert budget.allows(0.0)
    assert budget.needs_login


def test_allows_one_client_every_ten_seconds_near_the_limit() -> None:
    budget = HandshakeBudget(100)
    for _ in range(90):
        budget.record_aborted(50.5)
    assert [budget.allows(now) for now in (100.0, 100.1, 109.9, 110.0, 110.1)] == [True, False, False, True, False]


def test_a_login_does_not_reset_a_dial_that_may_still_connect() -> None:
    budget = HandshakeBudget(100)
    budget.record_abandoned(50.0)
    budget.record_aborted(51.0)
    budget.record_login(55.0)
    assert budget.aborted == 1  # The dial can still connect later, and then abort.
    budget.record_login(60.5)
    assert budget.aborted == 0


def test_a_login_resets_the_count_but_an_earlier_one_does_not() -> None:
    budget = HandshakeBudget(100)
    for _ in range(95):
        budget.record_aborted(50.5)
    budget.record_login(50.0)
    assert budget.aborted == 95
    budget.record_login(51.0)
    assert budget.aborted == 0
    assert not budget.needs_login
