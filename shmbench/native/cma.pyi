from shmbench.native.endpoint import Endpoint

CONTROL_BYTES: int

def allow_attach() -> None: ...

class CmaSender(Endpoint):
    def __init__(self, address: int) -> None: ...

class CmaReceiver(Endpoint):
    def __init__(self, address: int) -> None: ...
