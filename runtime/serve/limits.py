"""Every bound of the server, in one table: bytes, counts and seconds."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server holds and how long it waits.

    Attributes:
        max_sessions: that are open at once, over all faces.
        max_image_bytes: of the voxels of one image, in the dtype they come in.
        max_volume_bytes: of what all sessions hold in images, masks and uploads under way.
        max_text_bytes: of a body of JSON.
        max_connections: that are open at once.
        max_pending: requests of one session that run or wait at once.
        idle_s: after which a session without a user's action ends.
        silent_s: after which a session without any sign of life ends, if its client gives signs at all.
        header_s: in which a request's head must have arrived.
        body_s: in which a body must have arrived, on top of what its bytes take at `slowest_bytes_per_s`.
        slowest_bytes_per_s: at which a body may arrive; 128 KiB is a line of one megabit.
        keep_alive_s: that a connection may be without a request. Clients close theirs after 5 s (httpx) to 118 s
            (libcurl); shorter than httpx's would tear connections away from under a request.
        write_s: in which a client must have made room for more of an answer.
        rest_s: without work after which memory that sessions which have ended left for others goes back. Taking it anew
            would cost whoever comes next a tenth of their first answer.
        close_s: in which running work ends when the server is told to.
    """

    max_sessions: int = 8
    max_image_bytes: int = 2048 * MIB
    max_volume_bytes: int = 8192 * MIB
    max_text_bytes: int = 64 * 1024
    max_connections: int = 256
    max_pending: int = 4
    idle_s: float = 600.0
    silent_s: float = 60.0
    header_s: float = 10.0
    body_s: float = 30.0
    slowest_bytes_per_s: int = 128 * 1024
    keep_alive_s: int = 30
    write_s: float = 60.0
    rest_s: float = 5.0
    close_s: float = 0.7

    @property
    def max_upload_bytes(self) -> int:
        """Of a body that carries voxels: what does not shrink grows by a 64th at the most, and heads come on top."""
        return self.max_image_bytes + self.max_image_bytes // 64 + MIB

    def body_deadline_s(self, num_bytes: int) -> float:
        """Seconds in which a body of so many bytes must have arrived."""
        return self.body_s + num_bytes / self.slowest_bytes_per_s
