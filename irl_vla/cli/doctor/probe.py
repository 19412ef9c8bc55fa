"""What the doctor starts as another process, so that a Ray that hangs can be ended: connects, and says what is there.

``python -m irl_vla.cli.doctor.probe RAY_CONFIG_AS_JSON`` writes Ray's resources as JSON.
"""

import json
import sys

from irl_vla.errors import IrlVlaError
from irl_vla.stages.session import RayConfig, ray_session


def main(text: str) -> int:
    """Connects for a moment; returns 1 if it cannot, with the reason on standard error."""
    try:
        with ray_session(RayConfig.model_validate_json(text)):
            import ray

            sys.stdout.write(json.dumps(ray.cluster_resources()))
    except IrlVlaError as error:
        sys.stderr.write(f"\n{error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
