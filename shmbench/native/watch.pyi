from shmbench.native.watched import Watched

class Thread:
    running: bool
    scanning: bool
    def __init__(
        self,
        address: int,
        length: int,
        *,
        least_ns: int,
        most_ns: int,
        advice: int,
        least_step: int,
        most_ahead: int,
        patience: int,
    ) -> None: ...
    def start(self, *, scan: bool = True) -> None: ...
    def stop(self) -> None: ...
    def stats(self) -> Watched: ...
