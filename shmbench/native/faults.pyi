from shmbench.native.watched import Watched

class FaultThread:
    running: bool
    descriptor: int
    def __init__(
        self,
        address: int,
        length: int,
        *,
        least_step: int = 8,
        most_ahead: int = 512,
        patience: int = 12,
        most_window: int = 1024,
    ) -> None: ...
    def start(self, *, user_mode_only: bool) -> None: ...
    def stop(self) -> None: ...
    def stats(self) -> Watched: ...
