"""twinsight's Python client: image similarity over gRPC. Installs and runs without JAX.

Search the collection `photos`, which `twinsight index DIR` fills; then create a collection and write to it:

    from twinsight_client import Client, NewItem, field

    with Client("127.0.0.1:50051") as client:
        client.wait_ready()
        (matches,) = client.search("photos", ["holiday.jpg"], top_k=5).values()
        print([(match.id, match.score) for match in matches])

        client.create_collection("pets", model="base")
        client.upsert("pets", [NewItem("cat", "cat.jpg", {"year": 2024})]).values()
        (matches,) = client.search("pets", ["other-cat.jpg"], where=field("year") >= 2020).values()

`AsyncClient` has the same methods for asyncio, and `twinsight_client.testing.FakeClient` works in memory, for tests.
`twinsight_client.errors` has the errors that calls raise, `twinsight_client.results` the values they return, and
`twinsight_client.model_cards` the descriptions of models.
"""

from twinsight_client.aio import AsyncClient
from twinsight_client.channel import ChannelOptions, Tls
from twinsight_client.client import Client
from twinsight_client.errors import (
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServerError,
    TwinsightClientError,
    Unauthenticated,
    Unavailable,
)
from twinsight_client.filters import Field, Filter, field, filter_from_json
from twinsight_client.images import ImageInput
from twinsight_client.items import KEEP_VECTOR, ItemId, KeepVector, NewItem
from twinsight_client.model_cards import Calibration, ModelInfo, ModelTask, OperatingPoint
from twinsight_client.results import (
    Box,
    CallInfo,
    CollectionInfo,
    CollectionState,
    Comparison,
    DeleteResults,
    Detection,
    Embedding,
    HealthStatus,
    IngestResults,
    Item,
    ItemError,
    Label,
    Match,
    Metric,
    ModelReference,
    ModelResults,
    Results,
    StageTimes,
)
from twinsight_client.retry import RetryPolicy

__all__ = [
    "KEEP_VECTOR",
    "AlreadyExists",
    "AsyncClient",
    "Box",
    "Calibration",
    "CallInfo",
    "Cancelled",
    "ChannelOptions",
    "Client",
    "CollectionInfo",
    "CollectionState",
    "Comparison",
    "DataLoss",
    "DeadlineExceeded",
    "DeleteResults",
    "Detection",
    "Embedding",
    "FailedPrecondition",
    "Field",
    "FieldViolation",
    "Filter",
    "HealthStatus",
    "ImageInput",
    "IngestResults",
    "InvalidArgument",
    "Item",
    "ItemError",
    "ItemId",
    "KeepVector",
    "Label",
    "Match",
    "Metric",
    "ModelInfo",
    "ModelReference",
    "ModelResults",
    "ModelTask",
    "NewItem",
    "NotFound",
    "OperatingPoint",
    "PermissionDenied",
    "ResourceExhausted",
    "Results",
    "RetryPolicy",
    "ServerError",
    "StageTimes",
    "Tls",
    "TwinsightClientError",
    "Unauthenticated",
    "Unavailable",
    "field",
    "filter_from_json",
]
