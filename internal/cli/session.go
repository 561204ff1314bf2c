package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/google/uuid"

	"github.com/cairn-backup/cairn/internal/buildinfo"
	"github.com/cairn-backup/cairn/internal/client"
)

// session is who we are at which service. Everything in it is made when it is first asked for, so that commands that
// need no service work without one.
type session struct {
	profile
	credential azcore.TokenCredential
	transport  *http.Client
	api        *client.Client
}

var errNotLoggedIn = errors.New("Please run 'az login' to setup account: az login --service-principal --username CLIENT_ID " +
	"--password SECRET --tenant TENANT_ID, with CAIRN_ENDPOINT naming the service; or set AZURE_TENANT_ID, AZURE_CLIENT_ID and " +
	"AZURE_CLIENT_SECRET")

// client is the Resource Manager API's.
func (s *session) client() (*client.Client, error) {
	if s.api != nil {
		return s.api, nil
	}
	if s.Endpoint == "" {
		return nil, errors.New("no service is known: set CAIRN_ENDPOINT to its address, such as https://HOST:8443, or log in again with it set")
	}
	if s.ClientID == "" || s.ClientSecret == "" || s.TenantID == "" {
		return nil, errNotLoggedIn
	}
	transport, err := transport(s.CAFile)
	if err != nil {
		return nil, err
	}
	opts := &azidentity.ClientSecretCredentialOptions{DisableInstanceDiscovery: true}
	opts.Transport = transport
	opts.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: s.Authority}
	cred, err := azidentity.NewClientSecretCredential(s.TenantID, s.ClientID, s.ClientSecret, opts)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	api, err := client.New(cred, client.Options{Endpoint: s.Endpoint, Transport: transport,
		UserAgent: "cairn/" + buildinfo.Version})
	if err != nil {
		return nil, err
	}
	s.credential, s.transport, s.api = cred, transport, api
	return api, nil
}

// transport trusts the system's authorities and those of the file.
func transport(caFile string) (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("the service's certificate authority (SSL_CERT_FILE): %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the service's certificate authority (SSL_CERT_FILE): %s has no certificate", caFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: t}, nil
}

const subscriptionsVersion = "2022-12-01"

// subscriptionID is the ID of the subscription that wanted names, by ID or by name, or of the default one.
func (s *session) subscriptionID(ctx context.Context, wanted string) (string, error) {
	if wanted == "" {
		wanted = s.Subscription
	}
	if _, err := uuid.Parse(wanted); err == nil {
		return wanted, nil
	}
	all, err := s.subscriptions(ctx)
	if err != nil {
		return "", err
	}
	for _, sub := range all {
		if wanted == "" || strings.EqualFold(text(sub, "displayName"), wanted) || strings.EqualFold(text(sub, "subscriptionId"), wanted) {
			return text(sub, "subscriptionId"), nil
		}
	}
	if wanted == "" {
		return "", errors.New("no subscription found: the principal has a role on none")
	}
	return "", fmt.Errorf("The subscription of '%s' doesn't exist in cloud '%s'.", wanted, s.cloudName())
}

func (s *session) subscriptions(ctx context.Context) ([]any, error) {
	api, err := s.client()
	if err != nil {
		return nil, err
	}
	return api.List(ctx, client.Request{Path: "/subscriptions", APIVersion: subscriptionsVersion})
}

// cloudName is what az calls an environment; here it is the service's host.
func (s *session) cloudName() string {
	if u, err := url.Parse(s.Endpoint); err == nil && u.Host != "" {
		return u.Host
	}
	return "AzureCloud"
}

// refusedLogin is what the authority said when it gave no token, or empty when err is about something else.
func refusedLogin(err error) string {
	var failed *azidentity.AuthenticationFailedError
	if !errors.As(err, &failed) || failed.RawResponse == nil {
		return ""
	}
	var said struct {
		Description string `json:"error_description"`
	}
	body, readErr := runtime.Payload(failed.RawResponse)
	if readErr != nil || json.Unmarshal(body, &said) != nil {
		return ""
	}
	return said.Description
}
