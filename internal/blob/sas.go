package blob

import (
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
)

// ExtensionPermissions are the SAS permissions that Store needs: read, create, write, delete, list.
const ExtensionPermissions = "rcwdl"

// ContainerSAS signs access to one container, HTTPS only, until expiry; key is an account key in base64. The result is the
// query string to append to the container's URL after "?". It is a secret.
func ContainerSAS(account, key, containerName, permissions string, expiry time.Time) (string, error) {
	credential, err := container.NewSharedKeyCredential(account, key)
	if err != nil {
		return "", fmt.Errorf("sign access to blob container %s/%s: %w", account, containerName, err)
	}
	signed, err := sas.BlobSignatureValues{
		Protocol:      sas.ProtocolHTTPS,
		ExpiryTime:    expiry.UTC(),
		Permissions:   permissions,
		ContainerName: containerName,
	}.SignWithSharedKey(credential)
	if err != nil {
		return "", fmt.Errorf("sign access to blob container %s/%s: %w", account, containerName, err)
	}
	return signed.Encode(), nil
}
