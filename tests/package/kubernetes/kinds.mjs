// Validates objects of the Prometheus operator and the Gateway API, as JSON on stdin.
import { readFileSync } from 'node:fs';
import { HTTPRoute } from '@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1';
import { PodMonitor } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1';

const kinds = { HTTPRoute, PodMonitor };
for (const object of JSON.parse(readFileSync(0))) {
  const Kind = kinds[object.kind];
  if (!Kind) throw new Error(`no schema for ${object.kind}`);
  new Kind(object).validate();
  // Unknown fields pass: the API server drops those of custom resources.
  for (const field of Object.keys(object.spec)) {
    const wrong = new Kind({ ...object, spec: { ...object.spec, [field]: 1 } });
    let refused = false;
    try {
      wrong.validate();
    } catch {
      refused = true;
    }
    if (!refused) throw new Error(`the schema of ${object.kind} lets any ${field} pass`);
  }
  console.log(`${object.kind} ${object.metadata.name} is valid`);
}
